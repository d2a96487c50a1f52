/** The WebSocket connection, which is checked and reopened for as long as the page is open. */

const FIRST_DELAY_MS = 500;
const MAX_DELAY_MS = 15_000;
/** Three of the heartbeats that the daemon sends after 15 s without another frame. */
const TIMEOUT_MS = 45_000;
const CHECK_INTERVAL_MS = 1000;

const base = new URL(".", location.href);
const token = new URLSearchParams(location.search).get("token");

function socketUrl() {
  const url = new URL(base);
  url.protocol = base.protocol === "https:" ? "wss:" : "ws:";
  if (token !== null) url.searchParams.set("token", token);
  return url;
}

/** The Authorization header: `fetch` takes one character per byte, and the daemon reads UTF-8. */
function authorization() {
  return `Bearer ${String.fromCharCode(...new TextEncoder().encode(token))}`;
}

function request(path) {
  const headers = token === null ? {} : { Authorization: authorization() };
  return fetch(new URL(path, base), { headers, cache: "no-store" });
}

/** Return the JSON at `path` of the daemon, or null if it cannot be read. */
export async function readFromDaemon(path) {
  try {
    const response = await request(path);
    return response.ok ? await response.json() : null;
  } catch {
    return null;
  }
}

/**
 * A connection that reopens itself.
 *
 * `onMessage(message)` gets every parsed frame. `onState(state)` gets "connecting", "open" (after
 * the hello frame), "waiting" (for the next attempt) or "refused" (the token is missing or wrong;
 * there is a next attempt nevertheless).
 */
export class Connection {
  #onMessage;
  #onState;
  #socket = null;
  #delay = FIRST_DELAY_MS;
  #retryTimer = 0;
  #timeout = 0;
  #receivedAt = 0;
  #hasHello = false;
  #refused = false;

  constructor(onMessage, onState = () => {}) {
    this.#onMessage = onMessage;
    this.#onState = onState;
    addEventListener("online", () => this.#retryNow());
    document.addEventListener("visibilitychange", () => this.#retryNow());
    setInterval(() => this.#checkTimeout(), CHECK_INTERVAL_MS);
  }

  open() {
    this.close();
    this.#onState("connecting");
    this.#hasHello = false;
    const socket = new WebSocket(socketUrl());
    this.#socket = socket;
    socket.onmessage = (event) => this.#receive(event.data);
    socket.onclose = () => this.#reconnect();
    this.#restartTimeout();
  }

  /** Close without reopening, until `open` is called. */
  close() {
    clearTimeout(this.#retryTimer);
    this.#retryTimer = 0;
    this.#disconnect();
  }

  /** Send `message` if the connection is open; otherwise the caller sends it after the next hello. */
  send(message) {
    if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(JSON.stringify(message));
  }

  #receive(text) {
    this.#restartTimeout();
    const message = JSON.parse(text);
    if (message.type === "hello") {
      this.#delay = FIRST_DELAY_MS;
      this.#hasHello = true;
      this.#refused = false;
      this.#onState("open");
    }
    this.#onMessage(message);
  }

  #restartTimeout() {
    this.#receivedAt = Date.now();
    clearTimeout(this.#timeout);
    this.#timeout = setTimeout(() => this.#reconnect(), TIMEOUT_MS);
  }

  /** After a suspend: the daemon has closed the connection unnoticed, and timers stood still. */
  #checkTimeout() {
    if (this.#socket !== null && Date.now() - this.#receivedAt > TIMEOUT_MS) this.#reconnect();
  }

  #disconnect() {
    clearTimeout(this.#timeout);
    if (this.#socket === null) return;
    const socket = this.#socket;
    socket.onmessage = socket.onclose = null;
    // Closed before it is open, it would be an error in the console.
    if (socket.readyState === WebSocket.CONNECTING) socket.onopen = () => socket.close();
    else socket.close();
    this.#socket = null;
  }

  #reconnect() {
    this.#disconnect();
    const delay = this.#delay * (0.75 + Math.random() / 2);
    this.#delay = Math.min(this.#delay * 2, MAX_DELAY_MS);
    this.#retryTimer = setTimeout(() => this.open(), delay);
    if (!this.#refused) this.#onState("waiting");
    if (!this.#hasHello) this.#checkRefusal();
  }

  /** Browsers hide the status of a failed handshake, so find out by an HTTP request. */
  async #checkRefusal() {
    const response = await request("api/state").catch(() => null);
    if (!this.#retryTimer) return;
    this.#refused = response?.status === 401 || response?.status === 403;
    this.#onState(this.#refused ? "refused" : "waiting");
  }

  #retryNow() {
    if (this.#retryTimer && !document.hidden) this.open();
  }
}
