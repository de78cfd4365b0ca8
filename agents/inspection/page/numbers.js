"use strict";
/* Numbers, colours and elements. build.py joins numbers.js, track.js, episode.js and player.js to one script. */

const LEVELS = 255;
const SVG = "http://www.w3.org/2000/svg";

/** Decodes the compressed arrays of the page; returns a function from an array's description to the array. */
async function loadArrays(text) {
  const bytes = Uint8Array.from(atob(text.trim()), (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  const buffer = await new Response(stream).arrayBuffer();
  const kinds = { u1: Uint8Array, i4: Int32Array, f4: Float32Array };
  const kept = new Map();
  return (described) => {
    if (!kept.has(described.start)) {
      const size = described.shape.reduce((product, side) => product * side, 1);
      const values = new kinds[described.type](buffer, described.start, size);
      if (described.type === "u1") sumSteps(values, size / Math.max(described.shape[0], 1));
      kept.set(described.start, values);
    }
    return kept.get(described.start);
  };
}

/** Turns differences between steps of `stride` numbers into numbers, in place. */
function sumSteps(values, stride) {
  for (let index = stride; index < values.length; index++) values[index] += values[index - stride];
}

/** Returns the number that a level stands for. */
function numberOf(described, level) {
  return described.low + (described.high - described.low) * (level / (LEVELS - 1)) ** described.power;
}

/** Formats a number with three significant digits. */
function format(number) {
  if (!Number.isFinite(number)) return Number.isNaN(number) ? "not a number" : number > 0 ? "∞" : "−∞";
  const size = Math.abs(number);
  const isExtreme = size !== 0 && (size < 1e-3 || size >= 1e5);
  const text = isExtreme ? number.toExponential(1) : String(Number(number.toPrecision(3)));
  return text.replace(/-/g, "−");
}

/** Makes an element with attributes and children; strings become text, never HTML. */
function element(tag, attributes = {}, ...children) {
  const isSvg = ["svg", "path", "line"].includes(tag);
  const made = isSvg ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

/** The colour tables of both themes, and the current theme. */
class Colours {
  constructor(tables) {
    const decode = (text) => Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
    this.tables = Object.fromEntries(
      Object.entries(tables).map(([theme, scales]) => [
        theme,
        Object.fromEntries(Object.entries(scales).map(([scale, text]) => [scale, decode(text)])),
      ]),
    );
    this.theme = "light";
  }

  /** Draws levels on a canvas of `width` x `height` pixels; `levelAt(x, y)` returns the level of a pixel. */
  paint(canvas, width, height, scale, levelAt) {
    const table = this.tables[this.theme][scale];
    if (canvas.width !== width) canvas.width = width;
    if (canvas.height !== height) canvas.height = height;
    const context = canvas.getContext("2d");
    const image = context.createImageData(width, height);
    for (let y = 0, at = 0; y < height; y++) {
      for (let x = 0; x < width; x++, at += 4) {
        const colour = 3 * levelAt(x, y);
        image.data[at] = table[colour];
        image.data[at + 1] = table[colour + 1];
        image.data[at + 2] = table[colour + 2];
        image.data[at + 3] = 255;
      }
    }
    context.putImageData(image, 0, 0);
  }
}
