/** The latest minutes or hours of a source as coloured blocks, with titles and clock times. */

import { capital, clockTime } from "./wording.js";

const RANGES_S = [600, 3600, 21_600, 86_400];
/** Seconds between two clock times; the shortest interval with enough room is used. */
const TICKS_S = [60, 120, 300, 600, 900, 1800, 3600, 7200, 14_400, 21_600];
/** Room for a clock time, in CSS pixels at a root font of 16 px. */
const TICK_ROOM = 84;
/** Least room for a title, likewise; a shorter one is only in the table. */
const MIN_TITLE_ROOM = 56;
/** Heights in CSS pixels at a root font of 16 px: blocks, titles, clock times and the gaps between. */
const LANES = { blocks: 44, gap: 6, titles: 20, times: 18 };

const darkScheme = matchMedia("(prefers-color-scheme: dark)");

export class Timeline {
  #canvas;
  #context;
  #describe;
  #paints = new Map();
  #segments = [];
  #now = Date.now();
  #range = null;
  #drawn = -Infinity;

  /**
   * @param {HTMLCanvasElement} canvas
   * @param {(segment: object) => string} describe returns the tooltip of a segment
   */
  constructor(canvas, describe) {
    this.#canvas = canvas;
    this.#context = canvas.getContext("2d");
    this.#describe = describe;
    new ResizeObserver(() => this.#draw()).observe(canvas);
    darkScheme.addEventListener("change", () => this.#draw());
    canvas.addEventListener("pointermove", (event) => this.#updateTooltip(event.offsetX));
  }

  /** Set the colours; the result of `assignColours`. */
  set paints(paints) {
    this.#paints = paints;
    this.#draw();
  }

  /** Set the seconds shown; null selects the shortest range that contains everything. */
  set range(seconds) {
    this.#range = seconds;
    this.#draw();
  }

  get range() {
    if (this.#range !== null) return this.#range;
    const age = this.#segments.length ? (this.#now - this.#segments[0].from) / 1000 : 0;
    return RANGES_S.find((range) => age <= range) ?? RANGES_S.at(-1);
  }

  /** Show `segments` up to `now` (milliseconds); redraw only if that makes a difference. */
  show(segments, now, changed) {
    this.#segments = segments;
    this.#now = now;
    const pixel = (this.range * 1000) / this.#canvas.clientWidth;
    if (changed || Math.abs(now - this.#drawn) >= Math.max(pixel, 1000)) this.#draw();
  }

  #x(time) {
    return (1 - (this.#now - time) / (this.range * 1000)) * this.#canvas.clientWidth;
  }

  #updateTooltip(x) {
    const under = this.#segments.findLast((segment) => this.#x(segment.from) <= x && x <= this.#x(segment.to));
    const text = under ? this.#describe(under) : "";
    if (this.#canvas.title !== text) this.#canvas.title = text;
  }

  #draw() {
    const canvas = this.#canvas;
    const style = getComputedStyle(canvas);
    const width = Math.round(canvas.clientWidth * devicePixelRatio);
    const height = Math.round(canvas.clientHeight * devicePixelRatio);
    if (!width || !height) return;
    if (canvas.width !== width || canvas.height !== height) {
      canvas.width = width;
      canvas.height = height;
    }
    this.#drawn = this.#now;
    const context = this.#context;
    context.setTransform(devicePixelRatio, 0, 0, devicePixelRatio, 0, 0);
    context.clearRect(0, 0, width, height);
    const look = {
      unit: parseFloat(style.fontSize) / 16,
      family: style.fontFamily,
      ink: style.color,
      soft: style.getPropertyValue("--soft"),
      line: style.getPropertyValue("--line"),
      bad: style.getPropertyValue("--bad"),
      empty: style.getPropertyValue("--empty"),
    };
    this.#drawTimes(look);
    const lane = LANES.blocks * look.unit;
    context.fillStyle = look.empty;
    context.fillRect(0, 0, canvas.clientWidth, lane);
    for (const segment of this.#segments) {
      if (segment.to >= this.#now - this.range * 1000) this.#drawBlock(segment, lane, look);
    }
    this.#drawTitles(look);
  }

  #drawTimes(look) {
    const context = this.#context;
    const top = (LANES.blocks + LANES.gap) * look.unit;
    const pixelsPerSecond = this.#canvas.clientWidth / this.range;
    const step = 1000 * (TICKS_S.find((seconds) => seconds * pixelsPerSecond >= TICK_ROOM * look.unit) ?? TICKS_S.at(-1));
    const zone = new Date(this.#now).getTimezoneOffset() * 60_000;
    context.font = `${12 * look.unit}px ${look.family}`;
    context.textAlign = "center";
    context.textBaseline = "alphabetic";
    const first = Math.ceil((this.#now - this.range * 1000 - zone) / step) * step + zone;
    for (let time = first; time <= this.#now; time += step) {
      const x = Math.round(this.#x(time)) + 0.5;
      context.fillStyle = look.line;
      context.fillRect(x, 0, 1, top + (LANES.titles + 4) * look.unit);
      const text = clockTime(time);
      const half = context.measureText(text).width / 2;
      if (x < half || x > this.#canvas.clientWidth - half) continue;
      context.fillStyle = look.soft;
      context.fillText(text, x, top + (LANES.titles + LANES.times) * look.unit);
    }
  }

  #drawBlock(segment, lane, look) {
    const context = this.#context;
    const left = Math.max(0, this.#x(segment.from));
    const width = Math.max(1, this.#x(segment.to) - left - 1);
    const paint = segment.state === "music" ? this.#paints.get(segment.genre) : undefined;
    if (paint) {
      context.fillStyle = paint.colour;
      context.fillRect(left, 0, width, lane);
      if (paint.striped) this.#hatch(left, width, lane, 5 * look.unit, paint.ink, 0.35);
    } else if (segment.isOutage) {
      this.#hatch(left, width, lane, 10 * look.unit, look.bad, 0.8);
    } else if (segment.state === "not_music") {
      this.#hatch(left, width, lane, 6 * look.unit, look.soft, 0.7);
    } else if (segment.state === "uncertain") {
      this.#dot(left, width, lane, 6 * look.unit, look.soft);
    } else {
      context.fillStyle = look.soft;
      context.fillRect(left, lane - 2 * look.unit, width, 2 * look.unit);
    }
    if (!paint || paint.striped) return;
    context.font = `600 ${13 * look.unit}px ${look.family}`;
    context.textAlign = "left";
    context.textBaseline = "middle";
    const name = capital(segment.genre);
    if (context.measureText(name).width + 16 * look.unit > width) return;
    context.fillStyle = paint.ink;
    context.fillText(name, left + 8 * look.unit, lane / 2 + look.unit);
  }

  #clipTo(left, width, lane) {
    this.#context.save();
    this.#context.beginPath();
    this.#context.rect(left, 0, width, lane);
    this.#context.clip();
  }

  #hatch(left, width, lane, step, colour, alpha) {
    const context = this.#context;
    this.#clipTo(left, width, lane);
    context.globalAlpha = alpha;
    context.strokeStyle = colour;
    context.lineWidth = step / 4;
    context.beginPath();
    for (let x = Math.floor((left - lane) / step) * step; x < left + width; x += step) {
      context.moveTo(x, lane);
      context.lineTo(x + lane, 0);
    }
    context.stroke();
    context.restore();
  }

  #dot(left, width, lane, step, colour) {
    const context = this.#context;
    this.#clipTo(left, width, lane);
    context.fillStyle = colour;
    const size = step / 3.5;
    for (let x = Math.floor(left / step) * step; x < left + width; x += step) {
      for (let y = step / 2; y < lane; y += step) context.fillRect(x, y, size, size);
    }
    context.restore();
  }

  /** Draw each title once for all adjacent blocks that have it. */
  #drawTitles(look) {
    const context = this.#context;
    const middle = (LANES.blocks + LANES.gap + LANES.titles / 2) * look.unit;
    context.font = `${12.5 * look.unit}px ${look.family}`;
    context.textAlign = "left";
    context.textBaseline = "middle";
    for (const { title, from, to } of titleSpans(this.#segments)) {
      const left = Math.max(0, this.#x(from));
      const room = this.#x(to) - left - 12 * look.unit;
      if (room < MIN_TITLE_ROOM * look.unit) continue;
      context.fillStyle = look.soft;
      context.fillRect(left, middle - 7 * look.unit, 2, 14 * look.unit);
      context.fillStyle = look.ink;
      context.fillText(shortened(context, title, room), left + 8 * look.unit, middle + look.unit);
    }
  }
}

/** Join adjacent segments with the same title. */
function titleSpans(segments) {
  const spans = [];
  for (const { title, from, to } of segments) {
    const last = spans.at(-1);
    if (last?.title === title) last.to = to;
    else spans.push({ title, from, to });
  }
  return spans.filter((span) => span.title);
}

/** Return the longest beginning of `text` that fits; by binary search, since titles may be long. */
function shortened(context, text, room) {
  if (context.measureText(text).width <= room) return text;
  const letters = [...text];
  const beginning = (count) => `${letters.slice(0, count).join("").trimEnd()}…`;
  let [least, most] = [1, letters.length];
  while (most - least > 1) {
    const middle = Math.floor((least + most) / 2);
    if (context.measureText(beginning(middle)).width <= room) least = middle;
    else most = middle;
  }
  return beginning(least);
}
