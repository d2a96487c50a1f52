/** The probabilities: a bar for each label, in the model's order. */

import { make, makeAutoDirected, paintChip, setText } from "./elements.js";
import { capital, percent } from "./wording.js";

export class Genres {
  #list;
  #rows = new Map();

  /** @param {HTMLUListElement} list */
  constructor(list) {
    this.#list = list;
  }

  /** Make the bars; `paints` is the result of `assignColours`. */
  setLabels(labels, paints) {
    this.#rows = new Map(labels.map((label) => [label, genreRow(label, paints.get(label))]));
    this.#list.style.setProperty("--labels", labels.length);
    this.#list.replaceChildren(...[...this.#rows.values()].map((row) => row.item));
  }

  /** Show the probabilities of a prediction, or dashes for null. */
  show(prediction) {
    for (const [label, { item, fill, tick, value }] of this.#rows) {
      const smoothed = prediction?.probabilities[label] ?? 0;
      const raw = prediction?.window_probabilities?.[label];
      fill.style.transform = `scaleX(${smoothed})`;
      tick.hidden = raw === undefined;
      tick.style.transform = `translateX(${(raw ?? 0) * 100}%)`;
      item.classList.toggle("chosen", prediction?.genre === label);
      setText(value, prediction ? percent(smoothed) : "–");
    }
  }
}

function genreRow(label, paint) {
  // A label for sound that is not music is styled like the state of that name.
  const look = label === "not_music" ? label : "music";
  const item = make("li", "genre");
  const chip = make("span", "chip");
  paintChip(chip, { look, paint });
  const bar = make("span", "genre-bar");
  const fill = make("span", "genre-fill");
  paintChip(fill, { look, paint });
  const tick = make("span", "genre-tick");
  bar.setAttribute("aria-hidden", "true");
  bar.append(fill, tick);
  const value = make("span", "genre-value");
  item.append(chip, makeAutoDirected("genre-name", capital(label)), bar, value);
  return { item, fill, tick, value };
}
