/** The page: shows the daemon's messages. */

import { Alerts } from "./alerts.js";
import { Card } from "./card.js";
import { Connection, readFromDaemon } from "./connection.js";
import { briefReason, describePrediction, describeSegment, lastHeard, reasonText, stateText } from "./description.js";
import { element, measureText, setText } from "./elements.js";
import { Following } from "./following.js";
import { Genres } from "./genres.js";
import { Outages } from "./outages.js";
import { paintsOf } from "./palette.js";
import { SegmentTable } from "./segment_table.js";
import { Segments } from "./segments.js";
import { Spectrogram } from "./spectrogram.js";
import { SpectrogramAxes } from "./spectrogram_axes.js";
import { Timeline } from "./timeline.js";
import { decibels, exactTime, nameOf, percent } from "./wording.js";
import { Wall } from "./wall.js";

const CONNECTION_TEXTS = {
  connecting: "Connecting", open: "Connected", waiting: "No connection, trying again",
  refused: "Not allowed: token needed",
};
const MIN_LEVEL_DBFS = -60;
const HISTORY_MS = 24 * 3600 * 1000;
/** Of the history of all sources, which may be megabytes, only the part is loaded that the wall shows. */
const WALL_HISTORY_MS = 3600 * 1000;
/** Interval at which the state of alert rules is read, if there are any. */
const ALERTS_MS = 10_000;
/** With more sources than this the page begins with the wall, and no source has a card. */
const MAX_CARDS = 8;
/** With more sources than this whose clocks are unknown, as at the start, all predictions are wanted. */
const MAX_AWAITED = 50;

/** Types of messages that come every second or so for each source. */
const OF_A_SECOND = new Set(["prediction", "segment"]);

const segments = new Segments();
const outages = new Outages();
const spectrogram = new Spectrogram(element("spectrogram"));
const axes = new SpectrogramAxes(element("spectrogram-hertz"), element("spectrogram-seconds"));
const genres = new Genres(element("genres"));
const segmentTable = new SegmentTable(element("heard"), element("heard-empty"));
const timeline = new Timeline(element("timeline"), describeSegment);
const wall = new Wall(requestRender, follow);
const daemon = new Connection(takeMessage, takeConnectionState);
const following = new Following((message) => daemon.send(message));
const alerts = new Alerts();

/**
 * Sources by name: `{name, kind, state, detail, reason, since, nextAttempt, heardUntil, prediction,
 * card}`; times are in milliseconds, or null.
 */
const sources = new Map();
let labels = [];
let paints = new Map();
/** Name of the source that is shown; "" for the wall. */
let selected = sourceFromHash();
let connection = "connecting";
let windowSeconds = 0;
/** How the spectrogram is made, from the hello message. */
let spectrogramSpec = null;
let helloCount = 0;
let hasHistory = false;
let isSpectrogramWanted = false;
/** Names of the sources whose history was requested since the latest hello. */
const historyRequested = new Set();
/** The daemon's clock minus this computer's, in milliseconds. */
let skew = 0;
let segmentsChanged = true;
let announced = "";

/* ---- messages ---- */

const HANDLERS = {
  hello(message) {
    setText(element("model"), `${message.model.name} ${message.model.version}`);
    windowSeconds = message.window_seconds;
    spectrogramSpec = message.spectrogram;
    spectrogram.columnSeconds = spectrogramSpec.hop_length / spectrogramSpec.sample_rate;
    setLabels(message.labels, message.colours);
    setSources(message.sources);
    updateSpectrogramConnection();
    subscribeToSpectrogram();
    segments.restart();
    following.restart();
    segmentsChanged = true;
    hasHistory = false;
    historyRequested.clear();
    loadState(++helloCount);
  },
  prediction(message) {
    segments.takePrediction(message);
    const source = getSource(message.source);
    source.prediction = message;
    source.heardUntil = Date.parse(message.time);
    // After a hello even a source that is not live has its latest prediction, however old.
    if (source.state === "live") skew = skewOf(message);
  },
  segment(message) {
    segments.takeSegment(message);
    if (message.source === selected) segmentsChanged = true;
    if (isWall()) wall.refresh(message.source);
  },
  source({ source, ...status }) {
    const known = getSource(source);
    if (status.state !== known.state) {
      known.prediction = null;
      if (status.state === "live" && !following.has(source)) segments.awaitPrediction(source);
    }
    Object.assign(known, statusOf(status));
    outages.takeState(source, known);
    if (source === selected) segmentsChanged = true;
    if (isWall()) wall.refresh(source);
  },
  error(message) {
    if (message.code === "unknown_source") following.retry(); // removed while it was asked for
    console.warn(`genre-stream: ${message.code}: ${message.message}`);
  },
};

/** Convert the fields of a `source` message, or of a source in a hello message. */
function statusOf({ state, detail = "", reason = detail, since = null, next_attempt: next = null }) {
  const [sinceTime, nextAttempt] = [since, next].map((time) => (time === null ? null : Date.parse(time)));
  return { state, detail: detail || reason, reason, since: sinceTime, nextAttempt };
}

function skewOf({ time }) {
  return Date.parse(time) - Date.now();
}

function takeMessage(message) {
  HANDLERS[message.type]?.(message);
  // The wall and the cards of other sources are drawn once a second.
  if (message.source === selected || !OF_A_SECOND.has(message.type)) update();
}

function update() {
  announce();
  requestRender();
}

function takeConnectionState(state) {
  if (state === "connecting" && connection !== "open") return;
  connection = state;
  document.documentElement.dataset.connection = state;
  setText(element("connection"), hasEnded() ? "Stopped: all sources have ended" : CONNECTION_TEXTS[state]);
  update();
}

/** Return whether the daemon has gone because every source has ended. */
function hasEnded() {
  return connection === "waiting" && sources.size > 0 && [...sources.values()].every(({ state }) => state === "ended");
}

/** Load what the daemon published before the page was opened. */
async function loadState(forHello) {
  const state = await readFromDaemon("api/state");
  if (state === null || forHello !== helloCount) return;
  skew = skewOf(state);
  segments.addRows(state.segments);
  alerts.show(state.alerts ?? []);
  for (const { name, detail } of state.sources) getSource(name).detail ||= detail;
  segmentsChanged = true;
  wall.refresh();
  requestRender();
  hasHistory = state.history;
  loadHistory();
}

/** Load the state of the alert rules. */
async function loadAlerts() {
  if (!alerts.exist || document.hidden || connection !== "open") return;
  const state = await readFromDaemon("api/state");
  if (state === null) return;
  alerts.show(state.alerts ?? []);
  update();
}

/** Load the history of the selected source, or the last hour of all. */
async function loadHistory() {
  if (!hasHistory || historyRequested.has(selected)) return;
  const [name, forHello] = [selected, helloCount];
  historyRequested.add(name);
  const from = new Date(Date.now() + skew - (name ? HISTORY_MS : WALL_HISTORY_MS)).toISOString();
  const past = await readFromDaemon(`api/history?${new URLSearchParams(name ? { from, source: name } : { from })}`);
  if (forHello !== helloCount) return;
  if (past === null) {
    historyRequested.delete(name);
    return;
  }
  segments.addRows(past.segments);
  outages.addRows(past.states ?? []);
  segmentsChanged = true;
  wall.refresh();
  requestRender();
}

/* ---- spectrogram: a connection of its own, since the sources of a subscription hold for all its types ---- */

const spectrogramConnection = new Connection((message) => {
  if (message.type === "hello") {
    clearSpectrogram();
    subscribeToSpectrogram();
  } else if (message.type === "spectrogram" && message.source === selected) {
    spectrogram.push(message);
    renderSpectrogram();
  }
});

function subscribeToSpectrogram() {
  if (!sources.has(selected)) return;
  spectrogramConnection.send({ type: "subscribe", sources: [selected], messages: ["spectrogram"] });
}

/** Open the connection when a spectrogram begins to be shown, close it when none is. */
function updateSpectrogramConnection() {
  const wanted = !document.hidden && sources.has(selected);
  if (!wanted) spectrogramConnection.close();
  else if (!isSpectrogramWanted) spectrogramConnection.open();
  isSpectrogramWanted = wanted;
}

document.addEventListener("visibilitychange", updateSpectrogramConnection);

/* ---- predictions: of many sources only those that are shown; segments tell what the others play ---- */

function follow() {
  if (sources.size <= MAX_CARDS) {
    following.follow(null);
    return;
  }
  const list = [...sources.values()];
  const awaited = list.filter(({ name, state }) => state === "live" && segments.isAwaited(name));
  const shown = isWall() ? (document.hidden ? [] : wall.visible()) : [selected];
  const wanted = [...shown, ...awaited.map(({ name }) => name)];
  const names = wanted.filter((name) => sources.has(name) && sources.get(name).state !== "ended");
  following.follow(awaited.length > MAX_AWAITED ? null : names);
}

/* ---- labels and sources ---- */

function setLabels(names, colours) {
  if (names.join("\n") === labels.join("\n") && Object.entries(colours).every(([label, colour]) => paints.get(label)?.colour === colour)) return;
  labels = names;
  paints = paintsOf(colours);
  timeline.paints = paints;
  genres.setLabels(labels, paints);
  wall.setLabels(labels);
}

function setSources(list) {
  for (const [name, { card }] of sources) {
    if (list.some((source) => source.name === name)) continue;
    card.root.remove();
    sources.delete(name);
  }
  for (const [index, { name, kind, heard_until: heardUntil, ...status }] of list.entries()) {
    const source = getSource(name);
    Object.assign(source, { kind, ...statusOf(status), prediction: null });
    outages.takeState(name, source);
    if (heardUntil) source.heardUntil = Date.parse(heardUntil);
    const place = element("sources").children[index];
    if (place !== source.card.root) place.before(source.card.root);
  }
  if (!sources.size) return;
  if (sources.has(selected)) {
    if (helloCount === 0) sources.get(selected).card.scrollIntoList();
  } else if (sources.size <= MAX_CARDS) {
    select(list[0].name);
  } else {
    show("");
  }
}

/** Return whether the wall is shown instead of one source. */
function isWall() {
  return selected === "" && sources.size > MAX_CARDS;
}

function getSource(name) {
  if (!sources.has(name)) {
    const card = new Card(name, () => select(name));
    card.chosen = name === selected;
    element("sources").append(card.root);
    sources.set(name, { name, kind: "", ...statusOf({ state: "live" }), heardUntil: null, prediction: null, card });
  }
  return sources.get(name);
}

/** Return the source named in the fragment of the URL, or "". */
function sourceFromHash() {
  try {
    return decodeURIComponent(location.hash.slice(1));
  } catch {
    return "";
  }
}

function select(name) {
  history.replaceState(null, "", `#${encodeURIComponent(name)}`);
  show(name);
}

/** Show a source, or the wall. */
function show(name) {
  selected = name;
  for (const source of sources.values()) source.card.chosen = source.name === name;
  sources.get(name)?.card.scrollIntoList();
  clearSpectrogram();
  updateSpectrogramConnection();
  subscribeToSpectrogram();
  if (selected) follow();
  loadHistory();
  segmentsChanged = true;
  update();
}

addEventListener("hashchange", () => {
  const name = sourceFromHash();
  if (name === selected) return;
  if (sources.has(name)) show(name);
  else if (sources.size > MAX_CARDS) show("");
  if (isWall()) element("wall-search").focus({ preventScroll: true });
  else scrollTo(0, 0);
});

/* ---- texts ---- */

/** Return the current prediction: null unless source and connection are live. */
function currentPrediction(source) {
  return connection === "open" && source?.state === "live" ? source.prediction : null;
}

/** Describe the current state of `source`: `{look, paint, heading, confidence, note}`. */
function describe(source) {
  const waiting = (heading, note) => ({ look: "waiting", heading, note, confidence: null });
  const heard = () => (source ? lastHeard(segments.list(source.name), source.heardUntil) : "");
  if (connection === "refused") return waiting("Not allowed", "Open this page with ?token=… in its address.");
  if (connection === "connecting") return waiting("Connecting", "");
  if (connection !== "open" && source?.state === "ended") return waiting("Ended", heard());
  if (connection !== "open") return waiting("No connection", heard());
  if (!source) return waiting("No source", "The daemon listens to nothing.");
  if (source.state !== "live") return waiting(stateText(source.state), reasonText(source, Date.now() + skew) || heard());
  if (!source.prediction) return waiting("Listening", source.heardUntil ? heard() : "The first answer comes in a few seconds.");
  return describePrediction(source.prediction, segments.current(source.name), paints);
}

/** Describe a source for the wall. */
function describeTile(source) {
  const { name, state } = source;
  const prediction = currentPrediction(source);
  const segment = prediction && segments.current(name);
  // The latest prediction of a source that is not followed may be old; its segment is not.
  const heard = (!following.has(name) && segment) || prediction;
  const [connected, alert] = [connection === "open", alerts.sources.get(name)];
  const why = connected ? briefReason(source, Date.now() + skew) : "";
  return {
    name,
    state: connected ? state : "unknown",
    look: heard?.state ?? "waiting",
    genre: heard?.genre ?? null,
    paint: paints.get(heard?.genre),
    heading: heard ? nameOf(heard) : connected ? stateText(state) : "Unknown",
    note: (state !== "live" && why) || (alert && `Alert: ${alert}`) || segment?.title || why,
    alert: Boolean(alert),
    since: heard ? silentSince(heard) ?? segment?.from ?? null : source.since,
  };
}

/** Return since when it is silent, null if it is not. */
function silentSince({ state, time, silence_seconds: seconds }) {
  return state === "silence" && seconds ? Date.parse(time) - seconds * 1000 : null;
}

/** Update the window's title and the announcement to screen readers, if the heading changes. */
function announce() {
  let text = headingOfPage();
  if (sources.size > 1 && connection === "open" && !isWall()) text = `${text}, ${selected}`;
  if (text === announced) return;
  announced = text;
  element("announcement").textContent = text;
  document.title = `${text} · genre-stream`;
}

function headingOfPage() {
  if (!isWall() || connection !== "open") return describe(sources.get(selected)).heading;
  return wall.urgent ? `${wall.urgent} of ${sources.size} sources need attention` : `${sources.size} sources`;
}

/* ---- drawing ---- */

let frame = 0;

function requestRender() {
  frame ||= requestAnimationFrame(() => {
    frame = 0;
    render();
  });
}

function render() {
  document.documentElement.dataset.view = isWall() ? "wall" : "source";
  element("wall").hidden = !isWall();
  const hasCards = sources.size <= MAX_CARDS;
  element("cards").hidden = !hasCards;
  element("back").hidden = hasCards;
  setText(element("back-text"), `All ${sources.size} sources`);
  if (isWall()) renderWall();
  else renderSource(sources.get(selected));
}

/** Return the segments and outages of a source, oldest first. */
function pastOf(name) {
  if (!following.has(name) && sources.get(name)?.state === "live") segments.extend(name, Date.now() + skew);
  const all = [...segments.list(name), ...outages.list(name, Date.now() + skew)];
  return all.sort((one, other) => one.from - other.from);
}

function renderWall() {
  wall.show([...sources.values()].map(describeTile), Date.now() + skew, pastOf, paints);
  announce();
}

function renderSource(source) {
  renderNow(source);
  const prediction = currentPrediction(source);
  genres.show(prediction);
  renderLevel(prediction?.level_dbfs ?? null);
  if (sources.size <= MAX_CARDS) for (const each of sources.values()) renderCard(each);
  renderSpectrogram();
  const list = pastOf(selected);
  timeline.show(list, Date.now() + skew, segmentsChanged);
  element("timeline").dataset.range = timeline.range;
  for (const input of document.getElementsByName("range")) input.checked = Number(input.value) === timeline.range;
  segmentTable.show(list, paints);
  segmentsChanged = false;
}

function renderNow(source) {
  const { look, paint, heading, confidence, note } = describe(source);
  const now = element("now");
  now.dataset.look = look;
  now.classList.toggle("striped", paint?.striped ?? false);
  now.style.setProperty("--field", paint?.colour ?? "");
  now.style.setProperty("--field-ink", paint?.ink ?? "");
  const genre = element("now-genre");
  const { ems, overhang } = measureText(heading, genre);
  genre.style.setProperty("--ems", ems);
  genre.style.setProperty("--overhang", overhang);
  setText(element("now-source"), source?.name ?? "");
  setText(element("now-title"), (currentPrediction(source) && segments.current(selected)?.title) || "");
  setText(genre, heading);
  setText(element("now-confidence"), confidence === null ? "" : percent(confidence));
  setText(element("now-since"), confidence === null ? "" : ["sure", note].filter(Boolean).join(", "));
  setText(element("now-remark"), confidence === null ? note : "");
  element("now-gauge").style.transform = `scaleX(${confidence ?? 0})`;
}

function renderLevel(level) {
  const shown = Math.min(0, Math.max(MIN_LEVEL_DBFS, level ?? MIN_LEVEL_DBFS));
  const text = level === null ? "–" : decibels(level);
  element("level-fill").style.transform = `scaleX(${1 - shown / MIN_LEVEL_DBFS})`;
  element("level").setAttribute("aria-valuenow", shown.toFixed(1));
  element("level").setAttribute("aria-valuetext", level === null ? "unknown" : text);
  setText(element("level-value"), text);
}

function renderCard(source) {
  const { card, kind, state } = source;
  const prediction = currentPrediction(source);
  const connected = connection === "open";
  card.show({
    state: connected ? state : "unknown",
    words: connected ? stateText(state) : "Unknown",
    kind,
    reason: connected ? reasonText(source, Date.now() + skew) : "",
    prediction,
    paint: paints.get(prediction?.genre),
  });
}

function clearSpectrogram() {
  spectrogram.clear();
  renderSpectrogram();
}

function renderSpectrogram() {
  const source = sources.get(selected);
  const width = spectrogram.widthOf(windowSeconds);
  const isLive = connection === "open" && source?.state === "live";
  const mark = element("spectrogram-window");
  mark.hidden = spectrogram.empty || !isLive;
  mark.style.width = `${width}px`;
  const empty = element("spectrogram-empty");
  empty.hidden = !spectrogram.empty;
  const heard = source?.heardUntil ?? null;
  if (isLive) setText(empty, "Waiting for the next second");
  else setText(empty, heard === null ? "No sound yet" : `No sound since ${exactTime(heard)}`);
  if (!width) return;
  axes.show(spectrogramSpec, width / windowSeconds);
  const seconds = Math.round(spectrogram.capacity * spectrogram.columnSeconds);
  const lasting = `Last ${seconds} s, window ${windowSeconds.toFixed(0)} s`;
  setText(element("spectrogram-hint"), isLive || heard === null ? lasting : `Until ${exactTime(heard)}`);
}

/* ---- start ---- */

for (const input of document.getElementsByName("range")) {
  input.addEventListener("change", () => {
    timeline.range = Number(input.value);
    requestRender();
  });
}
element("unanswered").remove();
setInterval(() => {
  follow();
  requestRender();
}, 1000);
setInterval(loadAlerts, ALERTS_MS);
daemon.open();
