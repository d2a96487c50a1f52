/** The scrolling spectrogram: keeps the levels, draws only the columns that are new. */

import { levelPixels } from "./palette.js";

/** Columns kept, so that the picture can be drawn again in another size or colour scheme. */
const KEPT_COLUMNS = 2048;
/** Width of a column in CSS pixels, before it is rounded to whole pixels of the screen. */
const COLUMN_WIDTH = 2;
/** How far the canvas reaches beyond its frame's left edge (CSS pixels), for gliding; see dashboard.css. */
const RESERVE = 128;
/** Longest gap between two messages that is glided over, in seconds. */
const LONGEST_GLIDE = 4;

const darkScheme = matchMedia("(prefers-color-scheme: dark)");
const calm = matchMedia("(prefers-reduced-motion: reduce)");

export class Spectrogram {
  #canvas;
  #context;
  #scratch = document.createElement("canvas");
  #pixels = levelPixels(darkScheme.matches);
  #mels = 0;
  #levels = new Uint8Array(0);
  #total = 0;
  #position = null;
  /** Positions and number of columns from the first message on: how long a column lasts. */
  #measured = { from: 0, columns: 0 };
  #glide = null;

  /** @param {HTMLCanvasElement} canvas drawn on at the screen's own resolution */
  constructor(canvas) {
    this.#canvas = canvas;
    this.#context = canvas.getContext("2d", { alpha: false });
    new ResizeObserver(() => this.#redraw()).observe(canvas);
    darkScheme.addEventListener("change", () => {
      this.#pixels = levelPixels(darkScheme.matches);
      this.#redraw();
    });
  }

  /** Seconds that one column lasts; 0 until two messages have told it. */
  get columnSeconds() {
    const { from, columns } = this.#measured;
    return columns ? (this.#position - from) / columns : 0;
  }

  /** Number of columns shown at most. */
  get room() {
    return Math.floor((this.#canvas.clientWidth - RESERVE) / this.#columnWidth);
  }

  get empty() {
    return this.#total === 0;
  }

  /** Width of `seconds` in CSS pixels, null while unknown. */
  widthOf(seconds) {
    return this.columnSeconds ? (seconds / this.columnSeconds) * this.#columnWidth : null;
  }

  /** Forget all columns: another source, or another run of the daemon. */
  clear() {
    this.#total = 0;
    this.#position = null;
    this.#measured = { from: 0, columns: 0 };
    this.#redraw();
  }

  /** Add the columns of a `spectrogram` message. */
  push({ position, columns, mels, levels }) {
    const bytes = Uint8Array.from(atob(levels), (character) => character.charCodeAt(0));
    if (mels !== this.#mels) this.#start(mels);
    for (let column = 0; column < columns; column++) {
      const slot = (this.#total++ % KEPT_COLUMNS) * mels;
      this.#levels.set(bytes.subarray(column * mels, (column + 1) * mels), slot);
    }
    const seconds = this.#position === null ? 0 : position - this.#position;
    if (seconds > 0) this.#measured.columns += columns;
    else this.#measured = { from: position, columns: 0 };
    this.#position = position;
    if (this.#fits()) this.#scroll(columns, seconds);
    else this.#redraw();
  }

  #start(mels) {
    this.#mels = mels;
    this.#levels = new Uint8Array(KEPT_COLUMNS * mels);
    this.clear();
  }

  /** Whether the canvas has as many pixels as the screen gives it. */
  #fits() {
    const { width, height } = this.#size();
    return this.#canvas.width === width && this.#canvas.height === height;
  }

  #size() {
    const { clientWidth, clientHeight } = this.#canvas;
    return {
      width: Math.round(clientWidth * devicePixelRatio),
      height: Math.round(clientHeight * devicePixelRatio),
    };
  }

  get #columnPixels() {
    return Math.max(1, Math.round(COLUMN_WIDTH * devicePixelRatio));
  }

  /** Width of a column as it is drawn, in CSS pixels. */
  get #columnWidth() {
    return this.#columnPixels / devicePixelRatio;
  }

  /** Shift the picture to the left by `count` columns and draw them at the right. */
  #scroll(count, seconds) {
    const shift = count * this.#columnPixels;
    this.#context.drawImage(this.#canvas, -shift, 0);
    this.#draw(count);
    this.#glideBy(count, seconds);
  }

  /** Let the columns that came at once appear one by one, until the next message is due. */
  #glideBy(count, seconds) {
    this.#glide?.cancel();
    const distance = count * this.#columnWidth;
    const known = distance > 0 && seconds > 0 && seconds < LONGEST_GLIDE;
    if (calm.matches || !known || distance > RESERVE) return;
    this.#glide = this.#canvas.animate(
      [{ transform: `translateX(${distance}px)` }, { transform: "none" }],
      { duration: seconds * 1000, easing: `steps(${count})` },
    );
  }

  #redraw() {
    const canvas = this.#canvas;
    const { width, height } = this.#size();
    if (!this.#fits()) {
      canvas.width = width;
      canvas.height = height;
    }
    this.#glide?.cancel();
    this.#context.fillStyle = getComputedStyle(canvas).backgroundColor;
    this.#context.fillRect(0, 0, width, height);
    const fits = Math.ceil(width / this.#columnPixels);
    this.#draw(Math.min(fits, this.#total, KEPT_COLUMNS));
  }

  /** Draw the newest `count` columns at the right edge. */
  #draw(count) {
    if (count <= 0) return;
    const mels = this.#mels;
    const image = new ImageData(count, mels);
    const pixels = new Uint32Array(image.data.buffer);
    for (let column = 0; column < count; column++) {
      const slot = ((this.#total - count + column) % KEPT_COLUMNS) * mels;
      for (let band = 0; band < mels; band++) {
        pixels[(mels - 1 - band) * count + column] = this.#pixels[this.#levels[slot + band]];
      }
    }
    this.#scratch.width = count;
    this.#scratch.height = mels;
    this.#scratch.getContext("2d").putImageData(image, 0, 0);
    const width = count * this.#columnPixels;
    const { width: right, height } = this.#canvas;
    this.#context.drawImage(this.#scratch, 0, 0, count, mels, right - width, 0, width, height);
  }
}
