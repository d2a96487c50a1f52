/** The table of segments, newest first: the timeline as text. */

import { make, makeAutoDirected, paintChip, setText } from "./elements.js";
import { duration, exactTime, nameOf } from "./wording.js";

const MAX_ROWS = 60;

export class SegmentTable {
  #body;
  #empty;

  /**
   * @param {HTMLTableSectionElement} body parent of the rows
   * @param {HTMLElement} empty shown while there are no rows
   */
  constructor(body, empty) {
    this.#body = body;
    this.#empty = empty;
  }

  /** Show segments, which come oldest first; `paints` is the result of `assignColours`. */
  show(segments, paints) {
    const latest = segments.slice(-MAX_ROWS).reverse();
    this.#empty.hidden = latest.length > 0;
    while (this.#body.rows.length > latest.length) this.#body.deleteRow(-1);
    latest.forEach((segment, index) => {
      const row = this.#body.rows[index] ?? this.#body.appendChild(segmentRow());
      const [time, what, length] = row.cells;
      const [chip, name, title] = what.firstChild.children;
      setText(time, exactTime(segment.from));
      paintChip(chip, { look: segment.state, paint: paints.get(segment.genre) });
      setText(name, nameOf(segment));
      setText(title, segment.title ?? segment.reason ?? "");
      setText(length, duration(segment.to - segment.from));
      row.classList.toggle("open", segment.open);
    });
  }
}

function segmentRow() {
  const row = make("tr");
  const what = make("div", "heard-what");
  what.append(make("span", "chip"), makeAutoDirected("heard-name"), makeAutoDirected("heard-title"));
  const cell = make("td");
  cell.append(what);
  row.append(make("td", "heard-time"), cell, make("td", "heard-length"));
  return row;
}
