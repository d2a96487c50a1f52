/** What was heard: segments with clock times, from the WebSocket and from what the daemon remembers. */

/** Two stretches that begin within this many milliseconds of each other are the same one. */
const SAME_START_MS = 2500;
const LONGEST_MEMORY_MS = 24 * 3600 * 1000;
/** Live segments kept per source: a page may stay open for months. */
const MOST_SEGMENTS = 5000;

/** Give a segment the clock times of its positions; a time once given stays. */
function setClock(segment, origin) {
  segment.from ??= origin + segment.start * 1000;
  if (segment.end !== null) segment.to ??= origin + segment.end * 1000;
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
      this.#sources.set(source, { past: [], live: new Map(), origin: null, heard: null });
    }
    return this.#sources.get(source);
  }

  /** Note a `prediction`: it says which clock time a position is. */
  hear({ source, time, position }) {
    const kept = this.#of(source);
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
  }

  /**
   * Begin again after a hello: positions and ids may have started anew.
   *
   * What was heard so far becomes the past; a stretch that was open ends where it was last heard.
   */
  settle() {
    for (const [source, kept] of this.#sources) {
      kept.past = this.list(source).map((segment) => ({ ...segment, open: false }));
      kept.live.clear();
      kept.origin = null;
    }
  }

  /**
   * Take what the daemon remembers, the `segments` of `/api/history` or `/api/state`.
   *
   * It takes the place of what this page remembers of the same time, and of that only: a daemon
   * without a history has forgotten everything when it is started again.
   */
  recall(rows) {
    const bySource = Map.groupBy(rows, (row) => row.source);
    for (const [source, known] of bySource) {
      const remembered = known.map((row) => {
        const from = Date.parse(row.start);
        return { ...row, from, to: row.end === null ? from : Date.parse(row.end), open: false };
      });
      const kept = this.#of(source);
      const begin = remembered[0].from - SAME_START_MS;
      kept.past = [...kept.past.filter((segment) => segment.from < begin), ...remembered];
    }
  }

  /** All segments of `source`, oldest first. */
  list(source) {
    const kept = this.#of(source);
    const live = [...kept.live.values()]
      .filter((segment) => segment.from !== null)
      .map((segment) => ({ ...segment, to: Math.max(segment.from, segment.to ?? kept.heard) }))
      .sort((one, other) => one.from - other.from);
    const begin = (live[0]?.from ?? Infinity) - SAME_START_MS;
    const oldest = Math.max(kept.heard ?? 0, Date.now()) - LONGEST_MEMORY_MS;
    const past = kept.past.filter((segment) => segment.from < begin && segment.to > oldest);
    return [...past, ...live];
  }

  /** The segment that is going on now, or null. */
  current(source) {
    const last = this.list(source).at(-1);
    return last?.open ? last : null;
  }
}
