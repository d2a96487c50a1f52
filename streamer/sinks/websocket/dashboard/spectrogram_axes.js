/** The axes of the spectrogram: frequencies at the left, seconds below. */

import { make } from "./elements.js";

const FREQUENCIES_HZ = [100, 200, 500, 1000, 2000, 5000, 10_000, 20_000];
/** Seconds between two marks; the shortest interval with enough room is used. */
const STEPS_S = [1, 2, 5, 10, 20];
/** Room for a mark, in rem: below each other, and beside each other. */
const ROOM = { lines: 1.25, seconds: 3.5 };

/** Convert Hz to mels on Slaney's scale, as the model does: linear below 1 kHz, logarithmic above. */
function mels(hertz) {
  return hertz < 1000 ? (hertz * 3) / 200 : 15 + (27 * Math.log(hertz / 1000)) / Math.log(6.4);
}

/** Return the place of a frequency in the picture, 0 (bottom) to 1, by the centres of its bands. */
function heightOf(hertz, { fmin, fmax, n_mels }) {
  const share = (mels(hertz) - mels(fmin)) / (mels(fmax) - mels(fmin));
  return (share * (n_mels + 1) - 0.5) / n_mels;
}

function frequencyText(hertz) {
  return hertz < 1000 ? `${hertz} Hz` : `${hertz / 1000} kHz`;
}

export class SpectrogramAxes {
  #frequencies;
  #seconds;
  #shown = "";

  /**
   * @param {HTMLElement} frequencies as high as the picture
   * @param {HTMLElement} seconds as wide as the picture
   */
  constructor(frequencies, seconds) {
    this.#frequencies = frequencies;
    this.#seconds = seconds;
  }

  /**
   * Show the axes of a picture.
   *
   * @param {object} spec `spectrogram` of the hello message
   * @param {number} pixelsPerSecond in CSS pixels
   */
  show(spec, pixelsPerSecond) {
    const rem = parseFloat(getComputedStyle(document.documentElement).fontSize);
    const [height, width] = [this.#frequencies.clientHeight, this.#seconds.clientWidth];
    const shown = [rem, height, width, pixelsPerSecond, ...Object.values(spec)].join();
    if (shown === this.#shown) return;
    this.#shown = shown;
    this.#showFrequencies(spec, (ROOM.lines * rem) / height);
    this.#showSeconds(pixelsPerSecond, ROOM.seconds * rem, width);
  }

  #showFrequencies(spec, room) {
    let below = -Infinity;
    const marks = [];
    for (const hertz of FREQUENCIES_HZ.filter((each) => spec.fmin < each && each < spec.fmax)) {
      const place = heightOf(hertz, spec);
      if (place - below < room || place < room / 2) continue;
      below = place;
      const mark = make("span", "axis-mark", frequencyText(hertz));
      mark.style.bottom = `${place * 100}%`;
      marks.push(mark);
    }
    this.#frequencies.replaceChildren(...marks);
  }

  #showSeconds(pixelsPerSecond, room, width) {
    const step = STEPS_S.find((seconds) => seconds * pixelsPerSecond >= room) ?? STEPS_S.at(-1);
    const marks = [make("span", "axis-mark", "0 s")];
    for (let seconds = step; seconds * pixelsPerSecond < width - room / 2; seconds += step) {
      const mark = make("span", "axis-mark", `−${seconds} s`);
      mark.style.right = `${seconds * pixelsPerSecond}px`;
      marks.push(mark);
    }
    this.#seconds.replaceChildren(...marks);
  }
}
