/** Functions that find, make and change elements of the page. */

/** Return the element with an id. */
export const element = (id) => document.getElementById(id);

/** Make an element. */
export function make(tag, className = "", text = "") {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text) node.textContent = text;
  return node;
}

/** Make a span for text of a source or model, which may be written from right to left. */
export function makeAutoDirected(className, text = "") {
  const node = make("span", className, text);
  node.dir = "auto";
  return node;
}

/** Set the text of an element unless it is unchanged. */
export function setText(target, text) {
  if (target.textContent !== text) target.textContent = text;
}

/** Style a chip or a bar for a state, or in the colour of a label. */
export function paintChip(chip, { look, paint }) {
  const music = look === "music";
  chip.dataset.look = look;
  chip.classList.toggle("striped", music && (paint?.striped ?? false));
  chip.style.backgroundColor = music ? (paint?.colour ?? "") : "";
}

const ruler = document.createElement("canvas").getContext("2d");
let measured = { text: "", ems: 1, overhang: 0 };

/**
 * Measure `text` in the font of `target`, in em.
 *
 * Returns `ems`, the width of what is drawn, and `overhang`, by how much it begins left of its
 * place; negative if it begins right of it.
 */
export function measureText(text, target) {
  if (measured.text !== text) {
    const { fontFamily, fontWeight, fontSize, letterSpacing } = getComputedStyle(target);
    ruler.font = `${fontWeight} 100px ${fontFamily}`;
    const spacing = parseFloat(letterSpacing) / parseFloat(fontSize) || 0;
    const { width, actualBoundingBoxLeft } = ruler.measureText(text);
    const overhang = actualBoundingBoxLeft / 100;
    measured = { text, ems: width / 100 + spacing * text.length + overhang, overhang };
  }
  return measured;
}
