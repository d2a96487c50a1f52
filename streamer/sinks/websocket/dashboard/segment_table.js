/** The list of what was heard, newest first: the timeline as text. */

import { make, makeForeign, paintChip, say } from "./elements.js";
import { clockTime, duration, nameOf } from "./wording.js";

const MOST_ROWS = 60;

export class Heard {
  #body;
  #empty;

  /**
   * @param {HTMLTableSectionElement} body where the rows go
   * @param {HTMLElement} empty what stands there while there are none
   */
  constructor(body, empty) {
    this.#body = body;
    this.#empty = empty;
  }

  /** Show segments, given oldest first, with colours as `assignColours` gives them. */
  show(segments, paints) {
    const latest = segments.slice(-MOST_ROWS).reverse();
    this.#empty.hidden = latest.length > 0;
    while (this.#body.rows.length > latest.length) this.#body.deleteRow(-1);
    latest.forEach((segment, index) => {
      const row = this.#body.rows[index] ?? this.#body.appendChild(heardRow());
      const [time, what, length] = row.cells;
      const [chip, name, title] = what.firstChild.children;
      say(time, clockTime(segment.from));
      paintChip(chip, { look: segment.state, paint: paints.get(segment.genre) });
      say(name, nameOf(segment));
      say(title, segment.title ?? "");
      say(length, duration(segment.to - segment.from));
      row.classList.toggle("open", segment.open);
    });
  }
}

function heardRow() {
  const row = make("tr");
  const what = make("div", "heard-what");
  what.append(make("span", "chip"), makeForeign("heard-name"), makeForeign("heard-title"));
  const cell = make("td");
  cell.append(what);
  row.append(make("td", "heard-time"), cell, make("td", "heard-length"));
  return row;
}
