/** The scrolling spectrogram, which draws only new columns. */

import { levelPixels } from "./palette.js";

/** Columns kept, to redraw in another size or colour scheme. */
const KEPT_COLUMNS = 2048;
/** Width of a column in CSS pixels, before it is rounded to whole pixels of the screen. */
const COLUMN_WIDTH = 2;
/** CSS pixels by which the canvas extends beyond the left edge of its frame, for animation; see dashboard.css. */
const OVERHANG = 128;
/** Longest interval between two messages that is animated, in seconds. */
const MAX_ANIMATION_SECONDS = 4;

const darkScheme = matchMedia("(prefers-color-scheme: dark)");
const reducedMotion = matchMedia("(prefers-reduced-motion: reduce)");

export class Spectrogram {
  #canvas;
  #context;
  #scratch = document.createElement("canvas");
  #pixels = levelPixels(darkScheme.matches);
  #mels = 0;
  #levels = new Uint8Array(0);
  #total = 0;
  #position = null;
  #animation = null;
  /** Duration of a column in seconds; 0 while it is unknown. */
  columnSeconds = 0;

  /** @param {HTMLCanvasElement} canvas drawn at the resolution of the screen */
  constructor(canvas) {
    this.#canvas = canvas;
    this.#context = canvas.getContext("2d", { alpha: false });
    new ResizeObserver(() => this.#redraw()).observe(canvas);
    darkScheme.addEventListener("change", () => {
      this.#pixels = levelPixels(darkScheme.matches);
      this.#redraw();
    });
  }

  /** Number of columns that can be shown. */
  get capacity() {
    return Math.floor((this.#canvas.clientWidth - OVERHANG) / this.#columnWidth);
  }

  get empty() {
    return this.#total === 0;
  }

  /** Return the width of `seconds` in CSS pixels; 0 while it is unknown. */
  widthOf(seconds) {
    return this.columnSeconds ? (seconds / this.columnSeconds) * this.#columnWidth : 0;
  }

  /** Remove all columns, for another source or after a restart of the daemon. */
  clear() {
    this.#total = 0;
    this.#position = null;
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
    // The first message has the latest half minute.
    const seconds = this.#position === null ? 0 : position - this.#position;
    this.#position = position;
    if (this.#hasScreenSize()) this.#scroll(columns, seconds);
    else this.#redraw();
  }

  #start(mels) {
    this.#mels = mels;
    this.#levels = new Uint8Array(KEPT_COLUMNS * mels);
    this.clear();
  }

  /** Return whether the canvas has one pixel for each pixel of the screen. */
  #hasScreenSize() {
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
    this.#animate(count, seconds);
  }

  /** Reveal the columns of a message one by one, until the next message is due. */
  #animate(count, seconds) {
    this.#animation?.cancel();
    const distance = count * this.#columnWidth;
    const known = distance > 0 && seconds > 0 && seconds < MAX_ANIMATION_SECONDS;
    if (reducedMotion.matches || !known || distance > OVERHANG) return;
    this.#animation = this.#canvas.animate(
      [{ transform: `translateX(${distance}px)` }, { transform: "none" }],
      { duration: seconds * 1000, easing: `steps(${count})` },
    );
  }

  #redraw() {
    const canvas = this.#canvas;
    const { width, height } = this.#size();
    if (!this.#hasScreenSize()) {
      canvas.width = width;
      canvas.height = height;
    }
    this.#animation?.cancel();
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
