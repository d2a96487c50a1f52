/** The page: takes the daemon's messages and shows them. */

import { Connection, fetchFromDaemon } from "./connection.js";
import { assignColours } from "./palette.js";
import { Segments } from "./segments.js";
import { Spectrogram } from "./spectrogram.js";
import { Timeline } from "./timeline.js";
import { capital, clockTime, decibels, duration, percent } from "./wording.js";

const STATE_WORDS = { silence: "Silence", not_music: "Not music", uncertain: "Uncertain" };
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
const MOST_ROWS = 60;

const element = (id) => document.getElementById(id);
const segments = new Segments();
const spectrogram = new Spectrogram(element("spectrogram"));
const timeline = new Timeline(element("timeline"), describeSegment);

/** Sources by name: `{name, kind, state, detail, prediction, card}`. */
const sources = new Map();
let labels = [];
let paints = new Map();
let genreRows = new Map();
let selected = decodeURIComponent(location.hash.slice(1));
let connection = "connecting";
let windowSeconds = 0;
let greeting = 0;
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
    segments.settle();
    segmentsChanged = true;
    recall(++greeting);
  },
  prediction(message) {
    skew = Date.parse(message.time) - Date.now();
    segments.hear(message);
    sourceNamed(message.source).prediction = message;
  },
  segment(message) {
    segments.take(message);
    if (message.source === selected) segmentsChanged = true;
  },
  source({ source, state, detail }) {
    const known = sourceNamed(source);
    Object.assign(known, { state, detail });
    if (state !== "live") known.prediction = null;
  },
  error(message) {
    console.warn(`genre-stream: ${message.code}: ${message.message}`);
  },
};

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

/** Fill the timeline with what was heard before this page was there. */
async function recall(forGreeting) {
  const read = async (path) => {
    const answer = await fetchFromDaemon(path).catch(() => null);
    return answer?.ok ? answer.json() : {};
  };
  const state = await read("api/state");
  const from = new Date(Date.now() + skew - LONGEST_HISTORY_MS).toISOString();
  const history = state.history ? await read(`api/history?from=${encodeURIComponent(from)}`) : {};
  if (forGreeting !== greeting) return;
  segments.recall(history.segments ?? state.segments ?? []);
  for (const { name, detail } of state.sources ?? []) sourceNamed(name).detail ||= detail;
  segmentsChanged = true;
  requestRender();
}

/* ---- the spectrogram has a connection of its own: it is wanted of one source only ---- */

const pictures = new Connection((message) => {
  if (message.type === "hello") {
    spectrogram.clear();
    askForPictures();
  } else if (message.type === "spectrogram" && message.source === selected) {
    spectrogram.push(message);
    renderSpectrogram();
  }
});

function askForPictures() {
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
  genreRows = new Map(labels.map((label) => [label, genreRow(label)]));
  element("genres").style.setProperty("--labels", labels.length);
  element("genres").replaceChildren(...[...genreRows.values()].map((row) => row.item));
}

function genreRow(label) {
  const item = make("li", "genre");
  const chip = make("span", "chip");
  paintChip(chip, { look: "music", paint: paints.get(label) });
  const bar = make("span", "genre-bar");
  const fill = make("span", "genre-fill");
  fill.style.backgroundColor = paints.get(label).colour;
  const tick = make("span", "genre-tick");
  bar.setAttribute("aria-hidden", "true");
  bar.append(fill, tick);
  const value = make("span", "genre-value");
  item.append(chip, make("span", "genre-name", capital(label)), bar, value);
  return { item, fill, tick, value };
}

function setSources(list) {
  for (const [name, { card }] of sources) {
    if (list.some((source) => source.name === name)) continue;
    card.root.remove();
    sources.delete(name);
  }
  for (const { name, kind, state } of list) {
    Object.assign(sourceNamed(name), { kind, state, detail: "", prediction: null });
  }
  if (!sources.has(selected) && sources.size) select(sources.keys().next().value);
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
  const genre = make("span", "source-genre");
  dot.setAttribute("aria-hidden", "true");
  const line = make("span", "source-line");
  line.append(dot, state, chip, genre);
  face.append(make("span", "source-name", name), line);
  root.append(input, face);
  return { root, input, chip, dot, state, genre };
}

function select(name) {
  selected = name;
  history.replaceState(null, "", `#${encodeURIComponent(name)}`);
  for (const source of sources.values()) source.card.input.checked = source.name === name;
  sources.get(name).card.root.scrollIntoView({ block: "nearest", inline: "nearest" });
  spectrogram.clear();
  askForPictures();
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
  const plain = (look, heading, note = "") => ({ look, heading, note, confidence: null });
  if (connection === "refused") return plain("waiting", "Not allowed", "Open this page with ?token=… in its address.");
  if (connection !== "open") return plain("waiting", connection === "waiting" ? "No connection" : "Connecting", lastHeard());
  if (!source) return plain("waiting", "No source", "The daemon listens to nothing.");
  if (source.state !== "live") return plain("waiting", SOURCE_WORDS[source.state] ?? capital(source.state), source.detail || lastHeard());
  if (!source.prediction) return plain("waiting", "Listening", "The first answer comes in a few seconds.");
  return describePrediction(source.prediction);
}

function describePrediction({ source, state, genre, confidence, probabilities, level_dbfs: level }) {
  const current = segments.current(source);
  const since = current?.state === state && current.genre === genre ? `for ${duration(current.to - current.from)}` : "";
  if (state === "music") return { look: "music", paint: paints.get(genre), heading: capital(genre), confidence, note: since };
  const heading = STATE_WORDS[state] ?? capital(state);
  let note = since;
  if (state === "silence" && level !== null) note = [`Nothing louder than ${decibels(level)}`, since].filter(Boolean).join(", ");
  if (state === "uncertain") {
    const [first, second] = Object.entries(probabilities).sort((one, other) => other[1] - one[1]);
    note = `Perhaps ${first[0]} (${percent(first[1])})${second ? ` or ${second[0]} (${percent(second[1])})` : ""}`;
  }
  return { look: state, heading, confidence: null, note };
}

function lastHeard() {
  const last = segments.list(selected).at(-1);
  return last ? `Last heard: ${nameOf(last)}, ${clockTime(last.to)}` : "";
}

function nameOf({ state, genre }) {
  return state === "music" ? capital(genre) : (STATE_WORDS[state] ?? capital(state));
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
  renderGenres(prediction);
  renderLevel(prediction?.level_dbfs ?? null);
  for (const each of sources.values()) renderCard(each);
  const list = segments.list(selected);
  timeline.show(list, Date.now() + skew, segmentsChanged);
  element("timeline").dataset.range = timeline.range;
  for (const input of document.getElementsByName("range")) input.checked = Number(input.value) === timeline.range;
  renderHeard(list);
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

const ruler = document.createElement("canvas").getContext("2d");
let measured = { text: "", ems: 1 };

/** Width of `text` in the font of `target`, in em. */
function widthInEms(text, target) {
  if (measured.text !== text) {
    const { fontFamily, fontWeight, fontSize, letterSpacing } = getComputedStyle(target);
    ruler.font = `${fontWeight} 100px ${fontFamily}`;
    const spacing = parseFloat(letterSpacing) / parseFloat(fontSize) || 0;
    measured = { text, ems: ruler.measureText(text).width / 100 + spacing * text.length };
  }
  return measured.ems;
}

function renderGenres(prediction) {
  for (const [label, { item, fill, tick, value }] of genreRows) {
    const smoothed = prediction?.probabilities[label] ?? 0;
    const raw = prediction?.window_probabilities?.[label];
    fill.style.transform = `scaleX(${smoothed})`;
    tick.hidden = raw === undefined;
    tick.style.transform = `translateX(${(raw ?? 0) * 100}%)`;
    item.classList.toggle("chosen", prediction?.genre === label);
    say(value, prediction ? percent(smoothed) : "–");
  }
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
  say(card.state, connected ? (SOURCE_WORDS[state] ?? capital(state)) : "Unknown");
  card.chip.hidden = prediction === null;
  say(card.genre, prediction ? nameOf(prediction) : "");
  if (prediction) paintChip(card.chip, { look: prediction.state, paint: paints.get(prediction.genre) });
}

function renderSpectrogram() {
  const width = spectrogram.widthOf(windowSeconds);
  const mark = element("spectrogram-window");
  mark.hidden = width === null;
  mark.style.width = `${width ?? 0}px`;
  element("spectrogram-empty").hidden = !spectrogram.empty;
  if (width === null) return;
  const seconds = Math.round(spectrogram.room * spectrogram.columnSeconds);
  say(element("spectrogram-hint"), `Last ${seconds} s · its ${windowSeconds.toFixed(0)} s window framed`);
}

function renderHeard(list) {
  const body = element("heard");
  const latest = list.slice(-MOST_ROWS).reverse();
  element("heard-empty").hidden = latest.length > 0;
  while (body.rows.length > latest.length) body.deleteRow(-1);
  latest.forEach((segment, index) => {
    const row = body.rows[index] ?? body.appendChild(heardRow());
    const [time, what, length] = row.cells;
    const [chip, name, title] = what.firstChild.children;
    say(time, clockTime(segment.from));
    paintChip(chip, { look: segment.state, paint: paints.get(segment.genre) });
    say(name, nameOf(segment));
    say(title, segment.title ?? "");
    say(length, duration(segment.to - segment.from));
    row.classList.toggle("open", segment.open);
  });
}

function heardRow() {
  const row = make("tr");
  const what = make("div", "heard-what");
  what.append(make("span", "chip"), make("span", "heard-name"), make("span", "heard-title"));
  const cell = make("td");
  cell.append(what);
  row.append(make("td", "heard-time"), cell, make("td", "heard-length"));
  return row;
}

function paintChip(chip, { look, paint }) {
  chip.dataset.look = look;
  chip.classList.toggle("striped", paint?.striped ?? false);
  chip.style.backgroundColor = look === "music" ? (paint?.colour ?? "") : "";
}

function make(tag, className = "", text = "") {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text) made.textContent = text;
  return made;
}

/** Set the text of an element, and touch nothing if it is the same. */
function say(target, text) {
  if (target.textContent !== text) target.textContent = text;
}

/* ---- start ---- */

for (const input of document.getElementsByName("range")) {
  input.addEventListener("change", () => {
    timeline.range = Number(input.value);
    requestRender();
  });
}
setInterval(requestRender, 1000);
new Connection(takeMessage, takeConnectionState).open();
if (!document.hidden) pictures.open();
