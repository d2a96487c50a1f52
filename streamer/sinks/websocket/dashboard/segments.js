/** What was heard: segments with clock times, from the WebSocket and from what the daemon remembers. */

const LONGEST_MEMORY_MS = 24 * 3600 * 1000;
/** Live segments kept per source: a page may stay open for months. */
const MOST_SEGMENTS = 5000;

/** Give a segment the clock times of its positions; a time once given stays. */
function setClock(segment, origin) {
  segment.from ??= origin + segment.start * 1000;
  if (segment.end !== null) segment.to ??= origin + segment.end * 1000;
}

/** A segment out of a row of the daemon's memory. */
function fromRow({ start, end, ...row }) {
  return { ...row, from: Date.parse(start), to: Date.parse(end), open: false };
}

/** From when on segments of a source are remembered. */
function oldestRemembered({ heard }) {
  return Math.max(heard ?? 0, Date.now()) - LONGEST_MEMORY_MS;
}

/** A segment as others see it: an open one lasts until its source was last heard. */
function shown(segment, { heard }) {
  return { ...segment, to: Math.max(segment.from, segment.to ?? heard) };
}

/** The middle of a segment, to tell whether it lies before a moment; its edges may be a little off. */
function middle({ from, to }) {
  return (from + to) / 2;
}

/**
 * The segments of every source.
 *
 * A segment is `{from, to, open, state, genre, confidence, title}`; `from` and `to` are
 * milliseconds since 1970 on the daemon's clock, `to` of an open one is when it was last heard.
 */
export class Segments {
  #sources = new Map();

  #of(source) {
    if (!this.#sources.has(source)) {
      this.#sources.set(source, { past: [], live: new Map(), origin: null, heard: null, position: -Infinity });
    }
    return this.#sources.get(source);
  }

  /** Note a `prediction`: it says which clock time a position is, and whether the source began anew. */
  hear({ source, time, position }) {
    const kept = this.#of(source);
    if (position < kept.position) this.#settle(source, kept);
    kept.position = position;
    kept.heard = Date.parse(time);
    kept.origin = kept.heard - position * 1000;
    for (const segment of kept.live.values()) setClock(segment, kept.origin);
  }

  /** Take a `segment` message: a stretch that begins, is revised or ends. */
  take(message) {
    const kept = this.#of(message.source);
    const { id, start, end, state, genre, confidence, title } = message;
    const segment = { start, end, from: null, to: null, open: end === null, state, genre, confidence, title };
    const known = kept.live.get(id);
    if (known?.start === start) segment.from = known.from;
    if (kept.origin !== null) setClock(segment, kept.origin);
    kept.live.set(id, segment);
    if (kept.live.size > MOST_SEGMENTS) kept.live.delete(kept.live.keys().next().value);
    const oldest = oldestRemembered(kept);
    for (const [number, { to }] of kept.live) {
      if (to === null || to > oldest) break;
      kept.live.delete(number);
    }
  }

  /**
   * Begin again after a hello: positions and ids may have started anew.
   *
   * What was heard so far becomes the past; a stretch that was open ends where it was last heard.
   */
  settle() {
    for (const [source, kept] of this.#sources) this.#settle(source, kept);
  }

  #settle(source, kept) {
    kept.past = this.list(source).map((segment) => ({ ...segment, open: false }));
    kept.live.clear();
    kept.origin = null;
    kept.position = -Infinity;
  }

  /**
   * Take what the daemon remembers, the `segments` of `/api/history` or `/api/state`.
   *
   * It takes the place of what this page remembers of the same time, and of that only: a daemon
   * without a history has forgotten everything when it is started again.
   */
  recall(rows) {
    for (const source of new Set(rows.map((row) => row.source))) {
      const known = rows.filter((row) => row.source === source);
      const kept = this.#of(source);
      const ended = known.filter((row) => row.end !== null).map(fromRow);
      const begin = Date.parse(known[0].start);
      kept.past = [...kept.past.filter((segment) => middle(segment) < begin), ...ended];
      const open = [...kept.live.values()].find((segment) => segment.open);
      const begun = known.find((row) => row.end === null);
      // The daemon knows when it began; by positions it may seem earlier or later, after a gap.
      if (open && begun) open.from = Date.parse(begun.start);
    }
  }

  /** All segments of `source`, oldest first. */
  list(source) {
    const kept = this.#of(source);
    const live = [...kept.live.values()]
      .filter((segment) => segment.from !== null)
      .map((segment) => shown(segment, kept))
      .sort((one, other) => one.from - other.from);
    const begin = live[0]?.from ?? Infinity;
    const oldest = oldestRemembered(kept);
    const past = kept.past.filter((segment) => middle(segment) < begin);
    return [...past, ...live].filter((segment) => segment.to > oldest);
  }

  /** The segment that is going on now, or null. */
  current(source) {
    const kept = this.#of(source);
    let last = null;
    for (const segment of kept.live.values()) {
      if (segment.from !== null && segment.from >= (last?.from ?? -Infinity)) last = segment;
    }
    return last?.open ? shown(last, kept) : null;
  }
}
