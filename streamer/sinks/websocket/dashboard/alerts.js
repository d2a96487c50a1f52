/** The rules that alert somebody, and when each of them did last. */

import { element, make, makeAutoDirected, setText } from "./elements.js";
import { exactTime } from "./wording.js";

/**
 * The section of the page with the `alerts` of `/api/state`.
 *
 * A rule is `{name, fired, source, active}`: when and about which source it fired last, both null if
 * it never did, and the names of the sources about which it holds now.
 */
export class Alerts {
  #section = element("alerts");
  #list = element("alert-rules");
  /** The names of the rules that hold now, joined, by source. */
  sources = new Map();
  /** Whether there are any rules. */
  exist = false;

  /** @param {object[]} rules */
  show(rules) {
    this.exist = rules.length > 0;
    const names = new Set(rules.flatMap(({ active }) => active));
    const about = (source) => rules.filter(({ active }) => active.includes(source)).map(({ name }) => name);
    this.sources = new Map([...names].map((source) => [source, about(source).join(", ")]));
    this.#section.hidden = !this.exist;
    while (this.#list.children.length > rules.length) this.#list.lastChild.remove();
    rules.forEach((rule, index) => {
      const [dot, name, state] = (this.#list.children[index] ?? this.#list.appendChild(ruleItem())).children;
      dot.dataset.state = rule.active.length ? "failed" : "live";
      setText(name, rule.name);
      setText(state, stateOf(rule));
    });
  }
}

function ruleItem() {
  const item = make("li", "alert-rule");
  const dot = make("span", "dot");
  dot.setAttribute("aria-hidden", "true");
  item.append(dot, makeAutoDirected("alert-name"), makeAutoDirected("alert-state"));
  return item;
}

function stateOf({ fired, source, active }) {
  const last = fired === null ? "Has never fired" : `Fired last at ${exactTime(Date.parse(fired))} about ${source}`;
  return active.length ? `Holds for ${active.join(", ")}. ${last}` : last;
}
