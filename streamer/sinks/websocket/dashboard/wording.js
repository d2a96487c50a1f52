/** Numbers, times and names as text. */

const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const clockWithSeconds = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });

/** Format a probability as a whole percentage. */
export function percent(probability) {
  return `${Math.round(probability * 100)}%`;
}

/** Format a time (milliseconds since 1970) in the reader's time zone. */
export function clockTime(time) {
  return clock.format(time);
}

/** Format a time (milliseconds since 1970) in the reader's time zone, with seconds. */
export function exactTime(time) {
  return clockWithSeconds.format(time);
}

/** Format a duration in milliseconds in its two largest units. */
export function duration(milliseconds) {
  const seconds = Math.max(0, Math.round(milliseconds / 1000));
  if (seconds < 60) return `${seconds} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min ${String(seconds % 60).padStart(2, "0")} s`;
  return `${Math.floor(minutes / 60)} h ${String(minutes % 60).padStart(2, "0")} min`;
}

/** Format a label with a capital first letter and without underscores. */
export function capital(label) {
  return label.charAt(0).toUpperCase() + label.slice(1).replaceAll("_", " ");
}

/** Format a level in dBFS, with a typographic minus sign. */
export function decibels(level) {
  return `${level.toFixed(1).replace("-", "−")} dBFS`;
}

/** Return the name of the genre or state of a prediction or segment. */
export function nameOf({ state, genre }) {
  return state === "music" ? capital(genre) : capital(state);
}
