/** Colours: text on the colours of labels, and the colours of spectrogram levels. */

/** On any colour, one of black and white has a contrast above 4.5 (WCAG AA). */
const DARK_INK = "#000000";
const LIGHT_INK = "#ffffff";

/**
 * Return how every label is painted. A colour that an earlier label has already is striped.
 *
 * @param {Object<string, string>} colours "#rrggbb" of each label, from the `hello` message
 * @returns {Map<string, {colour: string, ink: string, striped: boolean}>}
 */
export function paintsOf(colours) {
  const used = new Set();
  const paints = new Map();
  for (const [label, colour] of Object.entries(colours)) {
    paints.set(label, { colour, ink: inkOn(colour), striped: used.has(colour) });
    used.add(colour);
  }
  return paints;
}

/** Return the relative luminance of "#rrggbb" as defined by WCAG 2, 0 (black) to 1 (white). */
function luminance(colour) {
  const [red, green, blue] = [1, 3, 5].map((at) => {
    const value = parseInt(colour.slice(at, at + 2), 16) / 255;
    return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
}

/** Return the contrast ratio of two colours as defined by WCAG 2, 1 to 21. */
export function contrast(one, other) {
  const [dark, light] = [luminance(one), luminance(other)].sort((a, b) => a - b);
  return (light + 0.05) / (dark + 0.05);
}

/** Return the text colour with the higher contrast on `colour`. */
function inkOn(colour) {
  return contrast(colour, DARK_INK) >= contrast(colour, LIGHT_INK) ? DARK_INK : LIGHT_INK;
}

/** Nine points of Magma (S. van der Walt, N. Smith), which is readable without colour vision. */
const MAGMA = [
  [0, 0, 4], [29, 17, 71], [81, 18, 124], [130, 38, 129], [182, 54, 121],
  [230, 81, 100], [251, 136, 97], [254, 194, 135], [252, 253, 191],
];

/**
 * Return a colour for each of the 256 spectrogram levels.
 *
 * @param {boolean} dark whether the page is dark: loud is light then, and dark on a light page
 * @returns {Uint32Array} 256 pixels in the byte order of ImageData (little endian)
 */
export function levelPixels(dark) {
  const pixels = new Uint32Array(256);
  for (let level = 0; level < 256; level++) {
    const place = ((dark ? level : 255 - level) / 255) * (MAGMA.length - 1);
    const below = Math.min(Math.floor(place), MAGMA.length - 2);
    const [red, green, blue] = MAGMA[below].map((value, channel) =>
      Math.round(value + (MAGMA[below + 1][channel] - value) * (place - below)),
    );
    pixels[level] = (255 << 24) | (blue << 16) | (green << 8) | red;
  }
  return pixels;
}
