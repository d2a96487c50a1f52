/** The wall: a tile for each of many sources, with those that need attention first. */

import { element, make, makeAutoDirected, paintChip, setText } from "./elements.js";
import { Strip } from "./strip.js";
import { capital, clockTime } from "./wording.js";

/** A source that is silent for this long needs attention. */
const SILENCE_MS = 30_000;
/** So does one that has not begun to play after this time. */
const CONNECTING_MS = 15_000;
/** Tiles that are shown at first, and how many more each time; what is not shown costs nothing. */
const PAGE_TILES = 120;
/** Least time between two drawings of a strip, unless its segments have changed. */
const STRIP_MS = 15_000;

const URGENCY = { failed: 5, reconnecting: 4, stalled: 4, alert: 3, silence: 2, connecting: 1 };

/** Return how urgently a source needs attention, 0 for not at all; `since` is when its state began. */
function urgencyOf({ state, look, since, alert }, now) {
  if (alert) return Math.max(URGENCY.alert, URGENCY[state] ?? 0);
  if (state === "connecting") return now - since > CONNECTING_MS ? URGENCY.connecting : 0;
  if (look === "silence") return now - since > SILENCE_MS ? URGENCY.silence : 0;
  return URGENCY[state] ?? 0;
}

/** Put `nodes` into a list in this order; the one with the focus keeps it. */
function arrange(list, nodes) {
  const focused = list.contains(document.activeElement) ? document.activeElement : null;
  nodes.forEach((node, index) => {
    if (list.children[index] !== node) list.insertBefore(node, list.children[index] ?? null);
  });
  if (focused && document.activeElement !== focused) focused.focus({ preventScroll: true });
}

export class Wall {
  #tiles = new Map();
  #lists = { urgent: element("wall-urgent"), others: element("wall-others") };
  #search = element("wall-search");
  #state = element("wall-state");
  #genre = element("wall-genre");
  #more = element("wall-more");
  #limit = PAGE_TILES;
  /** The tiles that can be seen, as elements. */
  #seen = new Set();
  #observer = null;
  /** Number of sources that need attention. */
  urgent = 0;

  /**
   * @param {() => void} onChange called when other sources are asked for
   * @param {() => void} onScroll called when other tiles can be seen
   */
  constructor(onChange, onScroll) {
    this.#observer = new IntersectionObserver((entries) => {
      for (const { target, isIntersecting } of entries) this.#seen[isIntersecting ? "add" : "delete"](target);
      onScroll();
    });
    for (const field of [this.#search, this.#state, this.#genre]) {
      field.addEventListener("input", () => {
        this.#limit = PAGE_TILES;
        onChange();
      });
    }
    this.#more.addEventListener("click", () => {
      this.#limit += PAGE_TILES;
      onChange();
    });
  }

  /** Offer labels to choose from. */
  setLabels(labels) {
    const chosen = this.#genre.value;
    const options = labels.map((label) => Object.assign(make("option", "", capital(label)), { value: label }));
    this.#genre.replaceChildren(this.#genre.options[0], ...options);
    this.#genre.value = labels.includes(chosen) ? chosen : "";
  }

  /** Return the names of the sources whose tiles can be seen, from top to bottom. */
  visible() {
    const tiles = Object.values(this.#lists).flatMap((list) => [...list.children]);
    return tiles.filter((tile) => this.#seen.has(tile)).map((tile) => tile.dataset.source);
  }

  /** Draw the strip of a source again, or all of them. */
  refresh(name = null) {
    for (const [each, tile] of this.#tiles) if (name === null || each === name) tile.drawnAt = -Infinity;
  }

  /**
   * Show the sources.
   *
   * @param {object[]} sources in order: `{name, state, look, genre, paint, heading, note, since,
   *   alert}`; `since` is in milliseconds, or null, and `alert` whether a rule fires for it
   * @param {number} now in milliseconds by the daemon's clock
   * @param {(name: string) => object[]} segmentsOf returns the segments of a source
   * @param {Map} paints colours of the labels
   */
  show(sources, now, segmentsOf, paints) {
    const shown = { urgent: [], others: [] };
    const names = new Set();
    const urgency = new Map(sources.map((source) => [source, urgencyOf(source, now)]));
    this.urgent = sources.filter((source) => urgency.get(source) > 0).length;
    const found = sources
      .filter((source) => this.#isWanted(source, urgency.get(source)))
      .sort((one, other) => urgency.get(other) - urgency.get(one));
    for (const source of found.slice(0, this.#limit)) {
      names.add(source.name);
      const tile = this.#tileOf(source.name);
      shown[urgency.get(source) > 0 ? "urgent" : "others"].push(tile.root);
      showTile(tile, source);
    }
    for (const [name, tile] of this.#tiles) {
      if (names.has(name)) continue;
      tile.root.remove();
      this.#observer.unobserve(tile.root);
      this.#seen.delete(tile.root);
      this.#tiles.delete(name);
    }
    for (const [part, list] of Object.entries(this.#lists)) {
      arrange(list, shown[part]);
      list.parentElement.hidden = !shown[part].length;
    }
    // A strip has its size only in the page.
    for (const name of names) {
      const tile = this.#tiles.get(name);
      if (now - tile.drawnAt < STRIP_MS) continue;
      tile.drawnAt = now;
      tile.strip.draw(segmentsOf(name), now, paints);
    }
    const rest = Math.max(0, found.length - this.#limit);
    this.#more.hidden = !rest;
    setText(this.#more, `Show ${Math.min(rest, PAGE_TILES)} more of ${rest}`);
    const attention = this.urgent ? `, ${this.urgent} ${this.urgent === 1 ? "needs" : "need"} attention` : "";
    const isFiltered = [this.#search.value.trim(), this.#state.value, this.#genre.value].some(Boolean);
    const count = isFiltered ? `${found.length} of ${sources.length} sources` : `${sources.length} sources${attention}`;
    setText(element("wall-count"), count);
    element("wall-none").hidden = found.length > 0;
  }

  /** Return whether a source is searched for, and has the state and genre that are chosen. */
  #isWanted({ name, state, look, genre, heading, note }, urgency) {
    const wanted = this.#search.value.trim().toLowerCase();
    if (!`${name} ${heading} ${note}`.toLowerCase().includes(wanted)) return false;
    if (this.#genre.value && genre !== this.#genre.value) return false;
    if (this.#state.value === "attention") return urgency > 0;
    if (this.#state.value === "offline") return state !== "live";
    return !this.#state.value || look === this.#state.value;
  }

  #tileOf(name) {
    if (!this.#tiles.has(name)) {
      const tile = makeTile(name);
      this.#tiles.set(name, tile);
      this.#observer.observe(tile.root);
    }
    return this.#tiles.get(name);
  }
}

function makeTile(name) {
  const root = make("li", "tile");
  root.dataset.source = name;
  const link = make("a", "tile-face");
  link.href = `#${encodeURIComponent(name)}`;
  const [dot, chip] = [make("span", "dot"), make("span", "chip")];
  dot.setAttribute("aria-hidden", "true");
  const [heading, since] = [makeAutoDirected("tile-heading"), make("span", "tile-since")];
  const note = makeAutoDirected("tile-note");
  const canvas = make("canvas", "tile-strip");
  canvas.setAttribute("aria-hidden", "true");
  const first = make("span", "tile-line");
  first.append(dot, makeAutoDirected("tile-name", name), since);
  const second = make("span", "tile-line");
  second.append(chip, heading, note);
  link.append(first, second, canvas);
  root.append(link);
  return { root, dot, chip, heading, since, note, strip: new Strip(canvas), drawnAt: -Infinity };
}

function showTile(tile, { state, look, paint, heading, note, since }) {
  tile.dot.dataset.state = state;
  paintChip(tile.chip, { look, paint });
  setText(tile.heading, heading);
  setText(tile.note, note);
  if (tile.root.title !== note) tile.root.title = note;
  setText(tile.since, since === null ? "" : `since ${clockTime(since)}`);
}
