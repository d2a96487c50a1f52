/** The card of one source, by which it is chosen. */

import { make, makeAutoDirected, paintChip, setText } from "./elements.js";
import { nameOf } from "./wording.js";

export class Card {
  #input = make("input");
  #dot = make("span", "dot");
  #state = make("span", "source-state");
  #chip = make("span", "chip");
  #genre = makeAutoDirected("source-genre");

  /**
   * @param {string} name of the source
   * @param {() => void} choose called when the card is chosen
   */
  constructor(name, choose) {
    /** The element to be shown. */
    this.root = make("label", "source");
    Object.assign(this.#input, { type: "radio", name: "source", value: name });
    this.#input.addEventListener("change", choose);
    this.#dot.setAttribute("aria-hidden", "true");
    const line = make("span", "source-line");
    line.append(this.#dot, this.#state, this.#chip, this.#genre);
    const face = make("span", "source-face");
    face.append(makeAutoDirected("source-name", name), line);
    this.root.append(this.#input, face);
  }

  set chosen(chosen) {
    this.#input.checked = chosen;
  }

  /** Show the state of the source in words, its kind, why it is in that state, and its prediction or null. */
  show({ state, words, kind, reason, prediction, paint }) {
    this.#dot.dataset.state = state;
    this.root.title = [kind, reason].filter(Boolean).join(": ");
    setText(this.#state, words);
    this.#chip.hidden = prediction === null;
    setText(this.#genre, prediction ? nameOf(prediction) : reason);
    if (prediction) paintChip(this.#chip, { look: prediction.state, paint });
  }

  /** Scroll the list that the card is in, and nothing else, until the card is visible. */
  scrollIntoList() {
    const list = this.root.parentElement;
    const [place, room] = [this.root, list].map((each) => each.getBoundingClientRect());
    if (place.left < room.left) list.scrollLeft -= room.left - place.left;
    else if (place.right > room.right) list.scrollLeft += place.right - room.right;
  }
}
