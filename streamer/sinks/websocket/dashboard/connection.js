/** The WebSocket: opened, watched, and opened again for as long as the page is there. */

const FIRST_DELAY_MS = 500;
const LONGEST_DELAY_MS = 15_000;
/** The daemon sends a heartbeat after 15 s without another frame, so three missed ones mean a dead link. */
const SILENCE_MS = 45_000;
const LOOK_MS = 1000;

const here = new URL(".", location.href);
const token = new URLSearchParams(location.search).get("token");

function socketAddress() {
  const address = new URL(here);
  address.protocol = here.protocol === "https:" ? "wss:" : "ws:";
  if (token !== null) address.searchParams.set("token", token);
  return address;
}

/** A header as the daemon reads it: in UTF-8, of which `fetch` takes only the bytes. */
function authorization() {
  return `Bearer ${String.fromCharCode(...new TextEncoder().encode(token))}`;
}

function request(path) {
  const headers = token === null ? {} : { Authorization: authorization() };
  return fetch(new URL(path, here), { headers, cache: "no-store" });
}

/** Return the JSON that the daemon has at `path`, null if there is none to be had. */
export async function readFromDaemon(path) {
  try {
    const answer = await request(path);
    return answer.ok ? await answer.json() : null;
  } catch {
    return null;
  }
}

/**
 * One connection that comes back by itself.
 *
 * `onMessage(message)` gets every parsed frame. `onState(state)` gets "connecting", "open" (the
 * daemon has said hello), "waiting" (for the next try) or "refused" (the token is missing or
 * wrong; tried again like "waiting").
 */
export class Connection {
  #onMessage;
  #onState;
  #socket = null;
  #delay = FIRST_DELAY_MS;
  #retry = 0;
  #watch = 0;
  #heardAt = 0;
  #greeted = false;
  #refused = false;

  constructor(onMessage, onState = () => {}) {
    this.#onMessage = onMessage;
    this.#onState = onState;
    addEventListener("online", () => this.#hurry());
    document.addEventListener("visibilitychange", () => this.#hurry());
    setInterval(() => this.#noticeSleep(), LOOK_MS);
  }

  open() {
    this.close();
    this.#onState("connecting");
    this.#greeted = false;
    const socket = new WebSocket(socketAddress());
    this.#socket = socket;
    socket.onmessage = (event) => this.#take(event.data);
    socket.onclose = () => this.#lose();
    this.#expectFrames();
  }

  /** Close for good, until `open` is called again. */
  close() {
    clearTimeout(this.#retry);
    this.#retry = 0;
    this.#drop();
  }

  /** Send `message` if the connection is open; the caller sends again after the next hello. */
  send(message) {
    if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(JSON.stringify(message));
  }

  #take(text) {
    this.#expectFrames();
    const message = JSON.parse(text);
    if (message.type === "hello") {
      this.#delay = FIRST_DELAY_MS;
      this.#greeted = true;
      this.#refused = false;
      this.#onState("open");
    }
    this.#onMessage(message);
  }

  #expectFrames() {
    this.#heardAt = Date.now();
    clearTimeout(this.#watch);
    this.#watch = setTimeout(() => this.#lose(), SILENCE_MS);
  }

  /** The daemon has given up a computer that slept; nothing says so here, and timers stood still meanwhile. */
  #noticeSleep() {
    if (this.#socket !== null && Date.now() - this.#heardAt > SILENCE_MS) this.#lose();
  }

  #drop() {
    clearTimeout(this.#watch);
    if (this.#socket === null) return;
    this.#socket.onmessage = this.#socket.onclose = null;
    this.#socket.close();
    this.#socket = null;
  }

  #lose() {
    this.#drop();
    const wait = this.#delay * (0.75 + Math.random() / 2);
    this.#delay = Math.min(this.#delay * 2, LONGEST_DELAY_MS);
    this.#retry = setTimeout(() => this.open(), wait);
    if (!this.#refused) this.#onState("waiting");
    if (!this.#greeted) this.#askWhy();
  }

  /** A browser does not say why a handshake failed; an ordinary request does. */
  async #askWhy() {
    const answer = await request("api/state").catch(() => null);
    if (!this.#retry) return;
    this.#refused = answer?.status === 401 || answer?.status === 403;
    this.#onState(this.#refused ? "refused" : "waiting");
  }

  #hurry() {
    if (this.#retry && !document.hidden) this.open();
  }
}
