/** The rules that alert somebody, and when each of them did last. */

import { element, make, makeAutoDirected, setText } from "./elements.js";
import { exactTime } from "./wording.js";

/**
 * The section of the page with the `alerts` of `/api/state`.
 *
 * A rule is `{name, firing, last_fired, last_source}`: the names of the sources for which it fires
 * now, and when and for which source it fired last; both null if it never did.
 */
export class Alerts {
  #section = element("alerts");
  #list = element("alert-rules");
  /** Names of the sources for which a rule fires now. */
  sources = new Set();
  /** Whether there are any rules. */
  exist = false;

  /** @param {object[]} rules */
  show(rules) {
    this.exist = rules.length > 0;
    this.sources = new Set(rules.flatMap(({ firing }) => firing));
    this.#section.hidden = !this.exist;
    while (this.#list.children.length > rules.length) this.#list.lastChild.remove();
    rules.forEach((rule, index) => {
      const [dot, name, state] = (this.#list.children[index] ?? this.#list.appendChild(ruleItem())).children;
      dot.dataset.state = rule.firing.length ? "failed" : "live";
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

function stateOf({ firing, last_fired: time, last_source: source }) {
  if (firing.length) return `Firing: ${firing.join(", ")}${time ? `, since ${exactTime(Date.parse(time))}` : ""}`;
  if (!time) return "Has never fired";
  return `Fired last at ${exactTime(Date.parse(time))}${source ? ` for ${source}` : ""}`;
}
