/** The wall: a tile for each of many sources, with those that need attention first. */

import { element, make, makeAutoDirected, paintChip, setText } from "./elements.js";
import { Strip } from "./strip.js";
import { clockTime } from "./wording.js";

/** A source that is silent for this long needs attention. */
const SILENCE_MS = 30_000;
/** So does one that has not begun to play after this time. */
const CONNECTING_MS = 15_000;
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
  /** Number of sources that need attention. */
  urgent = 0;

  /** @param {() => void} onSearch called when other sources are searched for */
  constructor(onSearch) {
    this.#search.addEventListener("input", onSearch);
  }

  /** Draw the strip of a source again, or all of them. */
  refresh(name = null) {
    for (const [each, tile] of this.#tiles) if (name === null || each === name) tile.drawnAt = -Infinity;
  }

  /**
   * Show the sources.
   *
   * @param {object[]} sources in order: `{name, state, look, paint, heading, note, since,
   *   alert}`; `since` is in milliseconds, or null, and `alert` whether a rule fires for it
   * @param {number} now in milliseconds by the daemon's clock
   * @param {(name: string) => object[]} segmentsOf returns the segments of a source
   * @param {Map} paints colours of the labels
   */
  show(sources, now, segmentsOf, paints) {
    const wanted = this.#search.value.trim().toLowerCase();
    const shown = { urgent: [], others: [] };
    const names = new Set();
    this.urgent = 0;
    let found = 0;
    const urgency = new Map(sources.map((source) => [source, urgencyOf(source, now)]));
    for (const source of [...sources].sort((one, other) => urgency.get(other) - urgency.get(one))) {
      names.add(source.name);
      const tile = this.#tileOf(source.name);
      this.urgent += urgency.get(source) > 0;
      tile.root.hidden = !`${source.name} ${source.heading} ${source.note}`.toLowerCase().includes(wanted);
      found += !tile.root.hidden;
      shown[urgency.get(source) > 0 ? "urgent" : "others"].push(tile.root);
      showTile(tile, source);
      if (!tile.root.hidden && now - tile.drawnAt >= STRIP_MS) {
        tile.drawnAt = now;
        tile.strip.draw(segmentsOf(source.name), now, paints);
      }
    }
    for (const [name, tile] of this.#tiles) {
      if (names.has(name)) continue;
      tile.root.remove();
      this.#tiles.delete(name);
    }
    for (const [part, list] of Object.entries(this.#lists)) {
      arrange(list, shown[part]);
      list.parentElement.hidden = !shown[part].some((root) => !root.hidden);
    }
    const attention = this.urgent ? `, ${this.urgent} ${this.urgent === 1 ? "needs" : "need"} attention` : "";
    setText(element("wall-count"), wanted ? `${found} of ${sources.length} sources` : `${sources.length} sources${attention}`);
    element("wall-none").hidden = found > 0;
  }

  #tileOf(name) {
    if (!this.#tiles.has(name)) this.#tiles.set(name, makeTile(name));
    return this.#tiles.get(name);
  }
}

function makeTile(name) {
  const root = make("li", "tile");
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
