/** The page: shows the daemon's messages. */

import { Connection, readFromDaemon } from "./connection.js";
import { element, make, makeAutoDirected, paintChip, setText, widthInEms } from "./elements.js";
import { Genres } from "./genres.js";
import { assignColours } from "./palette.js";
import { SegmentTable } from "./segment_table.js";
import { Segments } from "./segments.js";
import { Spectrogram } from "./spectrogram.js";
import { Timeline } from "./timeline.js";
import { capital, clockTime, decibels, duration, nameOf, percent } from "./wording.js";

const SOURCE_STATE_TEXTS = {
  connecting: "Connecting", live: "Live", stalled: "Stalled",
  reconnecting: "Reconnecting", ended: "Ended", failed: "Failed",
};
const CONNECTION_TEXTS = {
  connecting: "Connecting", open: "Connected", waiting: "No connection, trying again",
  refused: "Not allowed: token needed",
};
const MIN_LEVEL_DBFS = -60;
const HISTORY_MS = 24 * 3600 * 1000;

const segments = new Segments();
const spectrogram = new Spectrogram(element("spectrogram"));
const genres = new Genres(element("genres"));
const segmentTable = new SegmentTable(element("heard"), element("heard-empty"));
const timeline = new Timeline(element("timeline"), describeSegment);

/** Sources by name: `{name, kind, state, detail, prediction, card}`. */
const sources = new Map();
let labels = [];
let paints = new Map();
let selected = sourceFromHash();
let connection = "connecting";
let windowSeconds = 0;
let helloCount = 0;
let hasHistory = false;
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
    setLabels(message.labels);
    setSources(message.sources);
    subscribeToSpectrogram();
    segments.restart();
    segmentsChanged = true;
    hasHistory = false;
    historyRequested.clear();
    loadState(++helloCount);
  },
  prediction(message) {
    segments.takePrediction(message);
    const source = getSource(message.source);
    source.prediction = message;
    // After a hello even a source that is not live has its latest prediction, however old.
    if (source.state === "live") skew = skewOf(message);
  },
  segment(message) {
    segments.takeSegment(message);
    if (message.source === selected) segmentsChanged = true;
  },
  source({ source, state, detail }) {
    const known = getSource(source);
    if (state !== known.state) known.prediction = null;
    Object.assign(known, { state, detail });
  },
  error(message) {
    console.warn(`genre-stream: ${message.code}: ${message.message}`);
  },
};

function skewOf({ time }) {
  return Date.parse(time) - Date.now();
}

function takeMessage(message) {
  HANDLERS[message.type]?.(message);
  announce();
  requestRender();
}

function takeConnectionState(state) {
  if (state === "connecting" && connection !== "open") return;
  connection = state;
  document.documentElement.dataset.connection = state;
  setText(element("connection"), CONNECTION_TEXTS[state]);
  announce();
  requestRender();
}

/** Load what the daemon published before the page was opened. */
async function loadState(forHello) {
  const state = await readFromDaemon("api/state");
  if (state === null || forHello !== helloCount) return;
  skew = skewOf(state);
  segments.addRows(state.segments);
  for (const { name, detail } of state.sources) getSource(name).detail ||= detail;
  segmentsChanged = true;
  requestRender();
  hasHistory = state.history;
  loadHistory();
}

/** Load the history of the selected source; that of all may be megabytes. */
async function loadHistory() {
  if (!hasHistory || historyRequested.has(selected)) return;
  const [name, forHello] = [selected, helloCount];
  historyRequested.add(name);
  const from = new Date(Date.now() + skew - HISTORY_MS).toISOString();
  const past = await readFromDaemon(`api/history?${new URLSearchParams({ from, source: name })}`);
  if (forHello !== helloCount) return;
  if (past === null) {
    historyRequested.delete(name);
    return;
  }
  segments.addRows(past.segments);
  segmentsChanged = true;
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

document.addEventListener("visibilitychange", () => {
  if (document.hidden) spectrogramConnection.close();
  else spectrogramConnection.open();
});

/* ---- labels and sources ---- */

function setLabels(names) {
  if (names.join("\n") === labels.join("\n")) return;
  labels = names;
  paints = assignColours(labels);
  timeline.paints = paints;
  genres.setLabels(labels, paints);
}

function setSources(list) {
  for (const [name, { card }] of sources) {
    if (list.some((source) => source.name === name)) continue;
    card.root.remove();
    sources.delete(name);
  }
  for (const [index, { name, kind, state }] of list.entries()) {
    const source = getSource(name);
    Object.assign(source, { kind, state, detail: "", prediction: null });
    const place = element("sources").children[index];
    if (place !== source.card.root) place.before(source.card.root);
  }
  if (!sources.size) return;
  if (!sources.has(selected)) select(list[0].name);
  else if (helloCount === 0) scrollToCard(sources.get(selected).card.root);
}

/** Scroll the list of sources, and nothing else, until a card is visible. */
function scrollToCard(card) {
  const list = element("sources");
  const [place, room] = [card, list].map((each) => each.getBoundingClientRect());
  if (place.left < room.left) list.scrollLeft -= room.left - place.left;
  else if (place.right > room.right) list.scrollLeft += place.right - room.right;
}

function getSource(name) {
  if (!sources.has(name)) {
    const card = sourceCard(name);
    element("sources").append(card.root);
    sources.set(name, { name, kind: "", state: "live", detail: "", prediction: null, card });
  }
  return sources.get(name);
}

function sourceCard(name) {
  const root = make("label", "source");
  const input = make("input");
  Object.assign(input, { type: "radio", name: "source", value: name, checked: name === selected });
  input.addEventListener("change", () => select(name));
  const face = make("span", "source-face");
  const chip = make("span", "chip");
  const dot = make("span", "dot");
  const state = make("span", "source-state");
  const genre = makeAutoDirected("source-genre");
  dot.setAttribute("aria-hidden", "true");
  const line = make("span", "source-line");
  line.append(dot, state, chip, genre);
  face.append(makeAutoDirected("source-name", name), line);
  root.append(input, face);
  return { root, input, chip, dot, state, genre };
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
  selected = name;
  history.replaceState(null, "", `#${encodeURIComponent(name)}`);
  for (const source of sources.values()) source.card.input.checked = source.name === name;
  scrollToCard(sources.get(name).card.root);
  clearSpectrogram();
  subscribeToSpectrogram();
  loadHistory();
  segmentsChanged = true;
  announce();
  requestRender();
}

/* ---- texts ---- */

/** Return the current prediction: null unless source and connection are live. */
function currentPrediction(source) {
  return connection === "open" && source?.state === "live" ? source.prediction : null;
}

/** Describe the current state of `source`: `{look, paint, heading, confidence, note}`. */
function describe(source) {
  const waiting = (heading, note) => ({ look: "waiting", heading, note, confidence: null });
  if (connection === "refused") return waiting("Not allowed", "Open this page with ?token=… in its address.");
  if (connection === "connecting") return waiting("Connecting", "");
  if (connection !== "open") return waiting("No connection", lastHeard());
  if (!source) return waiting("No source", "The daemon listens to nothing.");
  if (source.state !== "live") return waiting(stateText(source.state), source.detail || lastHeard());
  if (!source.prediction) return waiting("Listening", "The first answer comes in a few seconds.");
  return describePrediction(source.prediction);
}

function stateText(sourceState) {
  return SOURCE_STATE_TEXTS[sourceState] ?? capital(sourceState);
}

function describePrediction(prediction) {
  const { source, state, genre, confidence } = prediction;
  const current = segments.current(source);
  const same = current?.state === state && current.genre === genre;
  const since = same ? `for ${duration(current.to - current.from)}` : "";
  const shown = { look: state, heading: nameOf(prediction), confidence: null, note: since };
  if (state === "music") return { ...shown, paint: paints.get(genre), confidence };
  if (state === "silence") return { ...shown, note: `Nothing louder than ${decibels(prediction.level_dbfs)}` };
  if (state === "uncertain") return { ...shown, note: `Perhaps ${guesses(prediction.probabilities)}` };
  return shown;
}

/** Return the two likeliest labels, such as "rock (31%) or metal (28%)". */
function guesses(probabilities) {
  return Object.entries(probabilities)
    .sort((one, other) => other[1] - one[1])
    .slice(0, 2)
    .map(([label, probability]) => `${label} (${percent(probability)})`)
    .join(" or ");
}

function lastHeard() {
  const last = segments.list(selected).at(-1);
  return last ? `Last heard: ${nameOf(last)}, ${clockTime(last.to)}` : "";
}

function describeSegment(segment) {
  const sure = segment.state === "music" ? ` ${percent(segment.confidence)}` : "";
  const title = segment.title ? ` · ${segment.title}` : "";
  return `${clockTime(segment.from)} to ${clockTime(segment.to)}: ${nameOf(segment)}${sure}${title}`;
}

/** Update the window's title and the announcement to screen readers, if the heading changes. */
function announce() {
  const { heading } = describe(sources.get(selected));
  const text = sources.size > 1 && connection === "open" ? `${heading}, ${selected}` : heading;
  if (text === announced) return;
  announced = text;
  element("announcement").textContent = text;
  document.title = `${text} · genre-stream`;
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
  const source = sources.get(selected);
  renderNow(source);
  const prediction = currentPrediction(source);
  genres.show(prediction);
  renderLevel(prediction?.level_dbfs ?? null);
  for (const each of sources.values()) renderCard(each);
  const list = segments.list(selected);
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
  element("now-genre").style.setProperty("--ems", widthInEms(heading, element("now-genre")));
  setText(element("now-source"), source?.name ?? "");
  setText(element("now-title"), (currentPrediction(source) && segments.current(selected)?.title) || "");
  setText(element("now-genre"), heading);
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
  const { card, state, detail } = source;
  const prediction = currentPrediction(source);
  const connected = connection === "open";
  card.dot.dataset.state = connected ? state : "unknown";
  card.root.title = [source.kind, detail].filter(Boolean).join(": ");
  setText(card.state, connected ? stateText(state) : "Unknown");
  card.chip.hidden = prediction === null;
  setText(card.genre, prediction ? nameOf(prediction) : "");
  if (prediction) paintChip(card.chip, { look: prediction.state, paint: paints.get(prediction.genre) });
}

function clearSpectrogram() {
  spectrogram.clear();
  renderSpectrogram();
}

function renderSpectrogram() {
  const width = spectrogram.widthOf(windowSeconds);
  const mark = element("spectrogram-window");
  mark.hidden = width === null;
  mark.style.width = `${width ?? 0}px`;
  element("spectrogram-empty").hidden = !spectrogram.empty;
  if (width === null) return;
  const seconds = Math.round(spectrogram.capacity * spectrogram.columnSeconds);
  setText(element("spectrogram-hint"), `Last ${seconds} s, window ${windowSeconds.toFixed(0)} s`);
}

/* ---- start ---- */

for (const input of document.getElementsByName("range")) {
  input.addEventListener("change", () => {
    timeline.range = Number(input.value);
    requestRender();
  });
}
element("unanswered").remove();
setInterval(requestRender, 1000);
new Connection(takeMessage, takeConnectionState).open();
if (!document.hidden) spectrogramConnection.open();
