/** When each source was not live, in clock time, from WebSocket messages and from the HTTP API. */

const MAX_AGE_MS = 24 * 3600 * 1000;
const MAX_OUTAGES = 1000;
const STATES = new Set(["stalled", "reconnecting", "failed", "not_running"]);

/** Join an outage to the one before if it follows at once: a source is stalled, then reconnecting. */
function append(outages, outage) {
  const last = outages.at(-1);
  if (last && (last.to ?? Infinity) >= outage.from) Object.assign(last, { to: outage.to, state: outage.state, reason: outage.reason });
  else outages.push({ ...outage });
}

/**
 * The outages of every source.
 *
 * An outage is `{from, to, open, state, reason}`: like a segment, but with a state of the source.
 */
export class Outages {
  #sources = new Map();

  #of(source) {
    if (!this.#sources.has(source)) this.#sources.set(source, []);
    return this.#sources.get(source);
  }

  /** Process the state of a source, which it has since a time; null if that is not known. */
  takeState(source, { state, reason, since }) {
    const outages = this.#of(source);
    const last = outages.at(-1);
    if (STATES.has(state)) append(outages, { from: since ?? Date.now(), to: null, state, reason });
    else if (last && last.to === null) last.to = Math.max(last.from, since ?? Date.now());
    if (outages.length > MAX_OUTAGES) outages.shift();
  }

  /** Add the `states` of `/api/history`, which replace what is known of the same time. */
  addRows(rows) {
    for (const source of new Set(rows.map((row) => row.source))) {
      const known = rows.filter((row) => row.source === source);
      const end = Date.parse(known.at(-1).end ?? known.at(-1).start);
      const later = this.#of(source).filter(({ from }) => from > end);
      const outages = [];
      for (const { start, end: until, state, reason } of known) {
        if (STATES.has(state)) append(outages, { from: Date.parse(start), to: until && Date.parse(until), state, reason });
      }
      this.#sources.set(source, [...outages, ...later]);
    }
  }

  /** Return the outages of `source` up to `now` (milliseconds), oldest first. */
  list(source, now) {
    return this.#of(source)
      .map((outage) => ({ ...outage, to: outage.to ?? Math.max(outage.from, now), open: outage.to === null, genre: null, title: null, isOutage: true }))
      .filter(({ to }) => to > now - MAX_AGE_MS);
  }
}
