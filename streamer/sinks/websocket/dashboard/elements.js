/** Elements of the page: made, found, written to. */

/** The element with an id. */
export const element = (id) => document.getElementById(id);

/** Make an element. */
export function make(tag, className = "", text = "") {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text) made.textContent = text;
  return made;
}

/** Make a span for words from elsewhere, which may be written from right to left. */
export function makeForeign(className, text = "") {
  const made = make("span", className, text);
  made.dir = "auto";
  return made;
}

/** Set the text of an element, and touch nothing if it is the same. */
export function say(target, text) {
  if (target.textContent !== text) target.textContent = text;
}

/** Give a chip or a bar the look of a state, or the colour of a label. */
export function paintChip(chip, { look, paint }) {
  const music = look === "music";
  chip.dataset.look = look;
  chip.classList.toggle("striped", music && (paint?.striped ?? false));
  chip.style.backgroundColor = music ? (paint?.colour ?? "") : "";
}

const ruler = document.createElement("canvas").getContext("2d");
let measured = { text: "", ems: 1 };

/** Width of `text` in the font of `target`, in em. */
export function widthInEms(text, target) {
  if (measured.text !== text) {
    const { fontFamily, fontWeight, fontSize, letterSpacing } = getComputedStyle(target);
    ruler.font = `${fontWeight} 100px ${fontFamily}`;
    const spacing = parseFloat(letterSpacing) / parseFloat(fontSize) || 0;
    measured = { text, ems: ruler.measureText(text).width / 100 + spacing * text.length };
  }
  return measured.ems;
}
