/** Numbers, times and names as people read them. */

const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });

/** A probability as a whole percentage. */
export function percent(probability) {
  return `${Math.round(probability * 100)}%`;
}

/** Milliseconds since 1970 as the reader's clock shows them. */
export function clockTime(time) {
  return clock.format(time);
}

/** A length in milliseconds, in its two largest units. */
export function duration(milliseconds) {
  const seconds = Math.max(0, Math.round(milliseconds / 1000));
  if (seconds < 60) return `${seconds} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min ${String(seconds % 60).padStart(2, "0")} s`;
  return `${Math.floor(minutes / 60)} h ${String(minutes % 60).padStart(2, "0")} min`;
}

/** A label as a heading: a capital first letter, no underscores. */
export function capital(label) {
  return label.charAt(0).toUpperCase() + label.slice(1).replaceAll("_", " ");
}

/** A level in dBFS, with a real minus sign. */
export function decibels(level) {
  return `${level.toFixed(1).replace("-", "−")} dBFS`;
}

/** The name of what a prediction or a segment says was heard. */
export function nameOf({ state, genre }) {
  return state === "music" ? capital(genre) : capital(state);
}
