/** What the page says about a source. */

import { capital, decibels, duration, exactTime, nameOf, percent } from "./wording.js";

const SOURCE_STATE_TEXTS = {
  connecting: "Connecting", live: "Live", stalled: "Stalled",
  reconnecting: "Reconnecting", ended: "Ended", failed: "Failed",
};

/** Return the state of a source as text. */
export function stateText(sourceState) {
  return SOURCE_STATE_TEXTS[sourceState] ?? capital(sourceState);
}

/** Return why a source is in its state, with a countdown to the next attempt to open it. */
export function reasonText({ detail, reason, nextAttempt }, now) {
  if (!nextAttempt) return detail;
  const seconds = Math.ceil((nextAttempt - now) / 1000);
  return `${reason}; ${seconds > 0 ? `next attempt in ${seconds} s` : "trying again"}`;
}

/** Return the same without the address that it begins with, which would leave no room for the rest. */
export function briefReason(source, now) {
  return reasonText(source, now).replace(/^[a-z]+:\/\/\S+: /, "");
}

/**
 * Describe a prediction: `{look, paint, heading, confidence, note}`.
 *
 * @param {object} prediction the message
 * @param {object | null} current the open segment of its source
 * @param {Map} paints colours of the labels
 */
export function describePrediction(prediction, current, paints) {
  const { state, genre, confidence, level_dbfs, probabilities, silence_seconds: silence } = prediction;
  const same = current?.state === state && current.genre === genre;
  const since = same ? `for ${duration(current.to - current.from)}` : "";
  const shown = { look: state, heading: nameOf(prediction), confidence: null, note: since };
  if (state === "music") {
    const note = prediction.carried ? "carried over from before the new title" : prediction.change ? "but something has changed" : since;
    return { ...shown, paint: paints.get(genre), confidence, note };
  }
  if (state === "silence") {
    const lasting = silence >= 1 ? ` for ${duration(silence * 1000)}` : "";
    return { ...shown, note: `Nothing louder than ${decibels(level_dbfs)}${lasting}` };
  }
  if (state === "uncertain") return { ...shown, note: guesses(probabilities) };
  return shown;
}

/** Return the two likeliest labels, such as "Perhaps rock or metal". */
function guesses(probabilities) {
  const likeliest = Object.entries(probabilities).sort((one, other) => other[1] - one[1]).slice(0, 2);
  // All are equal while the window is filled anew.
  if (likeliest[0]?.[1] === likeliest[1]?.[1]) return "Listening to more of it";
  return `Perhaps ${likeliest.map(([label]) => capital(label).toLowerCase()).join(" or ")}`;
}

/** Return what was heard last, and until when. */
export function lastHeard(segments, heardUntil) {
  const last = segments.at(-1);
  if (last) return `Last heard: ${nameOf(last)}, ${exactTime(last.to)}`;
  return heardUntil ? `Last heard: ${exactTime(heardUntil)}` : "";
}

/** Describe a segment in one line, for a tooltip. */
export function describeSegment(segment) {
  const sure = segment.state === "music" ? ` ${percent(segment.confidence)}` : "";
  const title = segment.title || segment.reason ? ` · ${segment.title || segment.reason}` : "";
  return `${exactTime(segment.from)} to ${exactTime(segment.to)}: ${nameOf(segment)}${sure}${title}`;
}
