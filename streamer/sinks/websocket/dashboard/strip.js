/** The last hour of a source as a narrow strip of its labels' colours. */

const RANGE_MS = 3600_000;

export class Strip {
  #canvas;
  #context;

  /** @param {HTMLCanvasElement} canvas */
  constructor(canvas) {
    this.#canvas = canvas;
    this.#context = canvas.getContext("2d");
  }

  /** Draw segments up to `now` (milliseconds); `paints` are the colours of the labels. */
  draw(segments, now, paints) {
    const canvas = this.#canvas;
    const width = Math.round(canvas.clientWidth * devicePixelRatio);
    const height = Math.round(canvas.clientHeight * devicePixelRatio);
    // Setting the size also clears the canvas.
    Object.assign(canvas, { width, height });
    const context = this.#context;
    const style = getComputedStyle(canvas);
    const place = (time) => Math.max(0, 1 - (now - time) / RANGE_MS) * width;
    for (const { state, genre, from, to, isOutage } of segments) {
      if (now - to > RANGE_MS) continue;
      const paint = state === "music" ? paints.get(genre) : undefined;
      const share = { music: 1, not_music: 0.5, uncertain: 0.25, silence: 0.125 }[state] ?? 0.5;
      context.fillStyle = paint?.colour ?? (isOutage ? style.getPropertyValue("--bad") : style.color);
      context.fillRect(place(from), height * (1 - share), Math.max(1, place(to) - place(from)), height * share);
    }
  }
}
