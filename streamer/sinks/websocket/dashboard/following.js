/** Which sources the page is sent predictions of: of many, only those that are shown. */

/** Least time between two requests: the daemon reads little more than 1 KiB a second from a client. */
const INTERVAL_MS = 4000;
/** Room for names in a request, which may have 4 KiB; sources beyond it are not followed. */
const MAX_NAMES_BYTES = 3500;

const encoder = new TextEncoder();

export class Following {
  #send;
  #names = null;
  #request = "";
  #sentAt = -Infinity;

  /** @param {(message: object) => void} send sends a message to the daemon */
  constructor(send) {
    this.#send = send;
  }

  /** Start anew after a hello: the daemon sends the predictions of all sources. */
  restart() {
    this.#names = null;
    this.#request = "";
    this.#sentAt = -Infinity;
  }

  /** Ask again the next time, as the last request was refused. */
  retry() {
    this.#request = "refused";
  }

  /** Return whether predictions of a source are sent. */
  has(name) {
    return this.#names === null || this.#names.has(name);
  }

  /**
   * Ask for the predictions of these sources, the most important first, or of all (null).
   *
   * Call it often: a request too soon after the one before is left out, unless it is for one source.
   */
  follow(names) {
    const wanted = names && fitting([...new Set(names)]);
    const request = wanted === null ? "" : JSON.stringify([...wanted].sort());
    if (request === this.#request) return;
    const isUrgent = wanted?.length === 1 && !this.has(wanted[0]);
    if (!isUrgent && Date.now() - this.#sentAt < INTERVAL_MS) return;
    this.#request = request;
    this.#sentAt = Date.now();
    this.#names = wanted && new Set(wanted);
    this.#send({ type: "subscribe", predictions_of: wanted ?? ["*"] });
  }
}

/** Return as many of the names as a request has room for. */
function fitting(names) {
  let room = MAX_NAMES_BYTES;
  return names.filter((name) => (room -= encoder.encode(JSON.stringify(name)).length + 1) >= 0);
}
