/** Segments in clock time, from WebSocket messages and from the HTTP API. */

const MAX_AGE_MS = 24 * 3600 * 1000;
/** Live segments kept per source, since a page may stay open for months. */
const MAX_SEGMENTS = 5000;
/** The clock of a source before its first prediction: time of position 0, latest position. */
const NOT_STARTED = { origin: null, position: -Infinity, before: null, waiting: null };

/**
 * Set the clock times of a segment that are not set yet.
 *
 * Where sound was interrupted, what ends there ends before the gap, and what starts there starts
 * after it: positions of before the gap count from the origin of before it.
 */
function setClock(segment, { origin, before }) {
  const originOf = (isBefore) => (isBefore ? before.origin : origin);
  segment.from ??= originOf(segment.start < before.position) + segment.start * 1000;
  if (segment.end !== null) segment.to ??= originOf(segment.end <= before.position) + segment.end * 1000;
}

/** Convert a row of `/api/history` or `/api/state` to a segment. */
function fromRow({ start, end, ...row }) {
  return { ...row, from: Date.parse(start), to: Date.parse(end), open: false };
}

/** Return the time before which segments of a source are dropped. */
function oldestKept({ latest }) {
  return Math.max(latest ?? 0, Date.now()) - MAX_AGE_MS;
}

/** Return a segment with an end: that of an open one is the time of the latest prediction. */
function withEnd(segment, { latest }) {
  return { ...segment, to: Math.max(segment.from, segment.to ?? latest) };
}

/** Return the middle of a segment, for comparisons in which its inexact ends do not matter. */
function middle({ from, to }) {
  return (from + to) / 2;
}

/**
 * The segments of every source.
 *
 * A segment is `{from, to, open, state, genre, confidence, title}`; `from` and `to` are
 * milliseconds since 1970 by the daemon's clock; `to` of an open one is the latest prediction.
 */
export class Segments {
  #sources = new Map();

  #stateOf(source) {
    if (!this.#sources.has(source)) {
      this.#sources.set(source, { past: [], live: new Map(), latest: null, ...NOT_STARTED });
    }
    return this.#sources.get(source);
  }

  /** Process a `prediction`, which sets the clock time of positions; a lower position is a restart. */
  takePrediction({ source, time, position }) {
    const sourceState = this.#stateOf(source);
    const { waiting } = sourceState;
    sourceState.waiting = null;
    if (position < sourceState.position) this.#restart(source, sourceState);
    const origin = Date.parse(time) - position * 1000;
    const { origin: previous, position: previousPosition } = sourceState;
    sourceState.before = { origin: previous ?? origin, position: previousPosition };
    Object.assign(sourceState, { origin, position, latest: Date.parse(time) });
    for (const segment of sourceState.live.values()) setClock(segment, sourceState);
    for (const message of waiting ?? []) this.takeSegment(message);
  }

  /** Let the segments of a source wait for its next prediction, since its clock may have changed. */
  awaitPrediction(source) {
    this.#stateOf(source).waiting ??= [];
  }

  /** Return whether they do, or there was no prediction yet. */
  isAwaited(source) {
    const { waiting, origin } = this.#stateOf(source);
    return waiting !== null || origin === null;
  }

  /** Let the open segment last until a time at least: what is known of a source without predictions. */
  extend(source, time) {
    const sourceState = this.#stateOf(source);
    if (sourceState.latest !== null) sourceState.latest = Math.max(sourceState.latest, time);
  }

  /** Process a `segment` message. */
  takeSegment(message) {
    const sourceState = this.#stateOf(message.source);
    if (sourceState.waiting !== null) {
      sourceState.waiting.push(message);
      return;
    }
    const { id, start, end, state, genre, confidence, title } = message;
    const segment = { start, end, from: null, to: null, open: end === null, state, genre, confidence, title };
    const known = sourceState.live.get(id);
    if (known?.start === start) segment.from = known.from;
    if (sourceState.origin !== null) setClock(segment, sourceState);
    sourceState.live.set(id, segment);
    if (sourceState.live.size > MAX_SEGMENTS) sourceState.live.delete(sourceState.live.keys().next().value);
    const oldest = oldestKept(sourceState);
    for (const [number, { to }] of sourceState.live) {
      if (to === null || to > oldest) break;
      sourceState.live.delete(number);
    }
  }

  /**
   * Prepare for restarted positions and ids, after a hello.
   *
   * All segments become past ones; an open segment ends at the latest prediction.
   */
  restart() {
    for (const [source, sourceState] of this.#sources) this.#restart(source, sourceState);
  }

  #restart(source, sourceState) {
    sourceState.past = this.list(source).map((segment) => ({ ...segment, open: false }));
    sourceState.live.clear();
    Object.assign(sourceState, NOT_STARTED);
  }

  /**
   * Add the `segments` of `/api/history` or `/api/state`.
   *
   * They replace past segments of the same time only, because a daemon without a history has lost
   * everything from before it was restarted.
   */
  addRows(rows) {
    for (const source of new Set(rows.map((row) => row.source))) {
      const known = rows.filter((row) => row.source === source);
      const sourceState = this.#stateOf(source);
      const ended = known.filter((row) => row.end !== null).map(fromRow);
      const begin = Date.parse(known[0].start);
      sourceState.past = [...sourceState.past.filter((segment) => middle(segment) < begin), ...ended];
      const open = [...sourceState.live.values()].find((segment) => segment.open);
      const begun = known.find((row) => row.end === null);
      // The daemon knows the exact start; computed from the position it may be off after a gap.
      if (open && begun) open.from = Date.parse(begun.start);
    }
  }

  /** Return all segments of `source`, oldest first. */
  list(source) {
    const sourceState = this.#stateOf(source);
    const live = [...sourceState.live.values()]
      .filter((segment) => segment.from !== null)
      .map((segment) => withEnd(segment, sourceState))
      .sort((one, other) => one.from - other.from);
    const begin = live[0]?.from ?? Infinity;
    const oldest = oldestKept(sourceState);
    const past = sourceState.past.filter((segment) => middle(segment) < begin);
    return [...past, ...live].filter((segment) => segment.to > oldest);
  }

  /** Return the open segment, or null. */
  current(source) {
    const sourceState = this.#stateOf(source);
    let last = null;
    for (const segment of sourceState.live.values()) {
      if (segment.from !== null && segment.from >= (last?.from ?? -Infinity)) last = segment;
    }
    return last?.open ? withEnd(last, sourceState) : null;
  }
}
