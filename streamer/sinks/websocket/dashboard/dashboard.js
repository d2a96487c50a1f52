/** The page: takes the daemon's messages and shows them. */

import { Connection, readFromDaemon } from "./connection.js";
import { element, make, makeForeign, paintChip, say, widthInEms } from "./elements.js";
import { Genres } from "./genres.js";
import { Heard } from "./heard.js";
import { assignColours } from "./palette.js";
import { Segments } from "./segments.js";
import { Spectrogram } from "./spectrogram.js";
import { Timeline } from "./timeline.js";
import { capital, clockTime, decibels, duration, nameOf, percent } from "./wording.js";

const SOURCE_WORDS = {
  connecting: "Connecting", live: "Live", stalled: "Stalled",
  reconnecting: "Reconnecting", ended: "Ended", failed: "Failed",
};
const CONNECTION_WORDS = {
  connecting: "Connecting", open: "Connected", waiting: "No connection, trying again",
  refused: "Not allowed: token needed",
};
const QUIETEST_DBFS = -60;
const LONGEST_HISTORY_MS = 24 * 3600 * 1000;

const segments = new Segments();
const spectrogram = new Spectrogram(element("spectrogram"));
const genres = new Genres(element("genres"));
const heard = new Heard(element("heard"), element("heard-empty"));
const timeline = new Timeline(element("timeline"), describeSegment);

/** Sources by name: `{name, kind, state, detail, prediction, card}`. */
const sources = new Map();
let labels = [];
let paints = new Map();
let selected = sourceOfAddress();
let connection = "connecting";
let windowSeconds = 0;
let greeting = 0;
let hasHistory = false;
/** Names of the sources whose history this page has, or has asked for, since the last greeting. */
const recalled = new Set();
/** Server's clock minus this computer's, in milliseconds. */
let skew = 0;
let segmentsChanged = true;
let announced = "";

/* ---- messages ---- */

const HANDLERS = {
  hello(message) {
    say(element("model"), `${message.model.name} ${message.model.version}`);
    windowSeconds = message.window_seconds;
    setLabels(message.labels);
    setSources(message.sources);
    askForPictures();
    segments.settle();
    segmentsChanged = true;
    hasHistory = false;
    recalled.clear();
    recall(++greeting);
  },
  prediction(message) {
    segments.hear(message);
    const source = sourceNamed(message.source);
    source.prediction = message;
    // A greeting tells the last prediction of a source that is away, too, however old it is.
    if (source.state === "live") skew = skewOf(message);
  },
  segment(message) {
    segments.take(message);
    if (message.source === selected) segmentsChanged = true;
  },
  source({ source, state, detail }) {
    const known = sourceNamed(source);
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
  say(element("connection"), CONNECTION_WORDS[state]);
  announce();
  requestRender();
}

/** Take what the daemon remembers from before this page was there. */
async function recall(forGreeting) {
  const state = await readFromDaemon("api/state");
  if (state === null || forGreeting !== greeting) return;
  skew = skewOf(state);
  segments.recall(state.segments);
  for (const { name, detail } of state.sources) sourceNamed(name).detail ||= detail;
  segmentsChanged = true;
  requestRender();
  hasHistory = state.history;
  recallSelected();
}

/** Fill the timeline with the history, of the selected source alone: that of all may be megabytes. */
async function recallSelected() {
  if (!hasHistory || recalled.has(selected)) return;
  const [name, forGreeting] = [selected, greeting];
  recalled.add(name);
  const from = new Date(Date.now() + skew - LONGEST_HISTORY_MS).toISOString();
  const past = await readFromDaemon(`api/history?${new URLSearchParams({ from, source: name })}`);
  if (forGreeting !== greeting) return;
  if (past === null) {
    recalled.delete(name);
    return;
  }
  segments.recall(past.segments);
  segmentsChanged = true;
  requestRender();
}

/* ---- the spectrogram has a connection of its own: it is wanted of one source only ---- */

const pictures = new Connection((message) => {
  if (message.type === "hello") {
    clearSpectrogram();
    askForPictures();
  } else if (message.type === "spectrogram" && message.source === selected) {
    spectrogram.push(message);
    renderSpectrogram();
  }
});

function askForPictures() {
  if (!sources.has(selected)) return;
  pictures.send({ type: "subscribe", sources: [selected], messages: ["spectrogram"] });
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden) pictures.close();
  else pictures.open();
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
    const source = sourceNamed(name);
    Object.assign(source, { kind, state, detail: "", prediction: null });
    const place = element("sources").children[index];
    if (place !== source.card.root) place.before(source.card.root);
  }
  if (!sources.size) return;
  if (!sources.has(selected)) select(list[0].name);
  else if (greeting === 0) reveal(sources.get(selected).card.root);
}

/** Scroll the list of sources, and nothing else, until a card of it is seen. */
function reveal(card) {
  const list = element("sources");
  const [place, room] = [card, list].map((each) => each.getBoundingClientRect());
  if (place.left < room.left) list.scrollLeft -= room.left - place.left;
  else if (place.right > room.right) list.scrollLeft += place.right - room.right;
}

function sourceNamed(name) {
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
  const genre = makeForeign("source-genre");
  dot.setAttribute("aria-hidden", "true");
  const line = make("span", "source-line");
  line.append(dot, state, chip, genre);
  face.append(makeForeign("source-name", name), line);
  root.append(input, face);
  return { root, input, chip, dot, state, genre };
}

/** The source that the address names after its #; an unreadable one names none. */
function sourceOfAddress() {
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
  reveal(sources.get(name).card.root);
  clearSpectrogram();
  askForPictures();
  recallSelected();
  segmentsChanged = true;
  announce();
  requestRender();
}

/* ---- what to say ---- */

/** The prediction that holds now: none while the source or the connection to the daemon is away. */
function currentPrediction(source) {
  return connection === "open" && source?.state === "live" ? source.prediction : null;
}

/** What is known about `source` now: `{look, paint, heading, confidence, note}`. */
function describe(source) {
  const waiting = (heading, note) => ({ look: "waiting", heading, note, confidence: null });
  if (connection === "refused") return waiting("Not allowed", "Open this page with ?token=… in its address.");
  if (connection === "connecting") return waiting("Connecting", "");
  if (connection !== "open") return waiting("No connection", lastHeard());
  if (!source) return waiting("No source", "The daemon listens to nothing.");
  if (source.state !== "live") return waiting(wordFor(source.state), source.detail || lastHeard());
  if (!source.prediction) return waiting("Listening", "The first answer comes in a few seconds.");
  return describePrediction(source.prediction);
}

function wordFor(sourceState) {
  return SOURCE_WORDS[sourceState] ?? capital(sourceState);
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

/** The two likeliest labels, such as "rock (31%) or metal (28%)". */
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

/** Tell screen readers and the window's title, but only when the answer changes. */
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
  heard.show(list, paints);
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
  say(element("now-source"), source?.name ?? "");
  say(element("now-title"), (currentPrediction(source) && segments.current(selected)?.title) || "");
  say(element("now-genre"), heading);
  say(element("now-confidence"), confidence === null ? "" : percent(confidence));
  say(element("now-since"), confidence === null ? "" : ["sure", note].filter(Boolean).join(", "));
  say(element("now-remark"), confidence === null ? note : "");
  element("now-gauge").style.transform = `scaleX(${confidence ?? 0})`;
}

function renderLevel(level) {
  const shown = Math.min(0, Math.max(QUIETEST_DBFS, level ?? QUIETEST_DBFS));
  const text = level === null ? "–" : decibels(level);
  element("level-fill").style.transform = `scaleX(${1 - shown / QUIETEST_DBFS})`;
  element("level").setAttribute("aria-valuenow", shown.toFixed(1));
  element("level").setAttribute("aria-valuetext", level === null ? "unknown" : text);
  say(element("level-value"), text);
}

function renderCard(source) {
  const { card, state, detail } = source;
  const prediction = currentPrediction(source);
  const connected = connection === "open";
  card.dot.dataset.state = connected ? state : "unknown";
  card.root.title = [source.kind, detail].filter(Boolean).join(": ");
  say(card.state, connected ? wordFor(state) : "Unknown");
  card.chip.hidden = prediction === null;
  say(card.genre, prediction ? nameOf(prediction) : "");
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
  const seconds = Math.round(spectrogram.room * spectrogram.columnSeconds);
  say(element("spectrogram-hint"), `Last ${seconds} s, window ${windowSeconds.toFixed(0)} s`);
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
if (!document.hidden) pictures.open();
