"use strict";
/* Plays the episodes in #document; build.py makes the document, arrays.py and tracks.py its arrays and tracks. */

const LEVELS = 255;
const SVG = "http://www.w3.org/2000/svg";
const SPEEDS = [0.25, 0.5, 1, 2, 4, 8, 16];
const MAX_BARS = 20;
const MAX_NAMES = 12;
const MATRIX = 288; // pixels, about the height of the memory
const HEIGHTS = { line: 34, minor: 20, row: 13, most: 96, vector: 40 }; // pixels

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
  const text = size !== 0 && (size < 1e-3 || size >= 1e5) ? number.toExponential(1) : String(Number(number.toPrecision(3)));
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

/** A picture over time: a heat map or a curve, with its name, the number at the current step, and a cursor. */
class Track {
  constructor(described, arrays, colours, steps, player) {
    Object.assign(this, { described, colours, steps, player });
    this.array = described.values;
    this.values = arrays(this.array);
    this.columns = this.array.shape[1] ?? 1;
    this.taken = described.taken && arrays(described.taken);
    this.plot = element("div", { class: "plot", role: "img", "aria-label": `${described.group}, ${described.name} over steps` });
    this.plot.style.height = `${this.height()}px`;
    [this.number, this.detail] = [new Text(), new Text()];
    this.reading = element("div", { class: "reading" }, this.number, " ", element("small", {}, this.detail));
    this.cursor = element("div", { class: "cursor" });
    this.cursor.style.width = `max(1px, ${100 / steps}%)`;
    this.name = element("div", { class: "name" }, element("span", {}, described.name === described.group ? "" : described.name, element("small", {}, this.range())));
    this.root = element("div", { class: described.minor ? "track minor" : "track" }, this.name, this.plot, this.reading);
    if (described.kind === "heat") this.addHeat();
    else this.addCurve();
    this.over = element("svg", { class: "over", viewBox: `0 0 ${steps} ${Math.max(this.columns, 1)}`, preserveAspectRatio: "none" });
    this.mark = element("div", { class: "mark", hidden: "" });
    this.plot.append(this.over, this.cursor, this.mark);
    player.followPointer(this.plot, (x, y) => this.describe(x, y), steps);
  }

  get hasNames() {
    const { kind, row } = this.described;
    return kind === "heat" && this.columns <= MAX_NAMES && !["slot", "column", "unit"].includes(row);
  }

  height() {
    const { described, columns } = this;
    if (described.kind === "line") return described.minor ? HEIGHTS.minor : HEIGHTS.line;
    if (described.minor) return Math.max(HEIGHTS.minor, Math.min(12 * columns, HEIGHTS.vector));
    if (this.hasNames) return Math.max(HEIGHTS.minor, HEIGHTS.row * columns);
    return described.head ? HEIGHTS.most : Math.min(HEIGHTS.most, Math.max(HEIGHTS.vector, 5 * columns));
  }

  range() {
    const { low, high, scale } = this.array;
    if (this.described.kind === "heat" && this.described.minor) return "";
    if (this.described.kind === "line") return `${format(this.low())} … ${format(this.high())}`;
    return scale === "diverging" ? `±${format(high)}` : `${format(low)} … ${format(high)}`;
  }

  low() {
    return this.described.limits?.[0] ?? Math.min(0, ...this.extremes());
  }

  high() {
    return Math.max(this.described.limits?.[1] ?? Math.max(...this.extremes()), this.low() + 1e-9);
  }

  /** Smallest and largest finite number of a curve. */
  extremes() {
    let [low, high] = [Infinity, -Infinity];
    for (let step = 0; step < this.steps; step++) {
      const [mean, deviation] = this.curveAt(step);
      if (!Number.isFinite(mean)) continue;
      low = Math.min(low, mean - deviation);
      high = Math.max(high, mean + deviation);
    }
    return low <= high ? [low, high] : [0, 1];
  }

  curveAt(step) {
    return this.columns === 2 ? [this.values[2 * step], this.values[2 * step + 1]] : [this.values[step], 0];
  }

  addHeat() {
    this.canvas = element("canvas");
    this.plot.append(this.canvas);
    if (!this.hasNames) return;
    const labels = this.described.labels.map((label) => element("span", {}, label));
    this.name.append(element("div", { class: "rows", "aria-hidden": "true" }, ...labels));
  }

  addCurve() {
    const [low, high] = [this.low(), this.high()];
    const place = (number) => 1 - (number - low) / (high - low);
    const zero = place(0);
    const svg = element("svg", { viewBox: `0 -0.06 ${this.steps} 1.12`, preserveAspectRatio: "none", "aria-hidden": "true" });
    if (zero >= 0 && zero <= 1) svg.append(element("line", { class: "zero", x1: 0, x2: this.steps, y1: zero, y2: zero }));
    const middle = [], upper = [], lower = [], bars = [];
    for (let step = 0; step < this.steps; step++) {
      const [mean, deviation] = this.curveAt(step);
      if (!Number.isFinite(mean)) continue;
      middle.push(`${step + 0.5} ${place(mean)}`);
      upper.push(`${step + 0.5} ${place(mean + deviation)}`);
      lower.unshift(`${step + 0.5} ${place(mean - deviation)}`);
      if (mean !== 0) bars.push(`M${step + 0.5} ${zero}V${place(mean)}`);
    }
    if (this.columns === 2) svg.append(element("path", { class: "band", d: `M${[...upper, ...lower].join("L")}Z` }));
    svg.append(element("path", { class: "curve", d: this.described.bars ? bars.join("") : `M${middle.join("L")}` }));
    this.plot.append(svg);
  }

  /** Draws the heat map in the colours of the theme. */
  paint() {
    if (!this.canvas) return;
    const { columns, values } = this;
    this.colours.paint(this.canvas, this.steps, columns, this.array.scale, (x, y) => values[x * columns + y]);
    if (this.taken) this.paintTaken();
  }

  /** Marks the values taken, a dot in the row of each step. */
  paintTaken() {
    let dots = "";
    for (let step = 0; step < this.steps; step++) dots += `M${step + 0.3} ${this.taken[step] + 0.5}h0.4`;
    this.over.replaceChildren(element("path", { class: "halo", d: dots }), element("path", { class: "arc", d: dots }));
  }

  /** Returns the number in row `row` at a step. */
  at(step, row = 0) {
    const value = this.values[step * this.columns + row];
    return this.described.kind === "heat" ? numberOf(this.array, value) : value;
  }

  /** Returns the row with the largest absolute number at a step. */
  largest(step) {
    let best = 0;
    for (let row = 1; row < this.columns; row++) if (Math.abs(this.at(step, row)) > Math.abs(this.at(step, best))) best = row;
    return best;
  }

  rowName(row) {
    const { labels, row: kind } = this.described;
    return kind ? `${kind} ${labels[row]}` : labels[row];
  }

  describe(x, y) {
    const { described } = this, step = Math.floor(x * this.steps);
    const head = `${described.group}, ${described.name}\nstep ${step}`;
    if (described.kind === "line") {
      const [mean, deviation] = this.curveAt(step);
      return `${head}: ${format(mean)}${this.columns === 2 ? ` ± ${format(deviation)}` : ""}`;
    }
    const row = Math.min(Math.floor(y * this.columns), this.columns - 1);
    return `${head}, ${this.rowName(row)}: ${format(this.at(step, row))}`;
  }

  /** Shows the numbers of a step. */
  show(step) {
    const { described } = this;
    let number, detail = "";
    if (described.kind === "line") {
      const [mean, deviation] = this.curveAt(step);
      number = format(mean);
      if (this.columns === 2) detail = `± ${format(deviation)}`;
    } else {
      const row = this.taken ? this.taken[step] : this.largest(step);
      number = format(this.at(step, row));
      if (this.columns > 1) detail = this.rowName(row);
    }
    this.number.data = number;
    this.detail.data = detail;
    this.cursor.style.left = `${(100 * step) / this.steps}%`;
  }
}

/** A matrix at the current step, with rows and columns of slots. */
class Matrix {
  constructor(described, arrays, colours) {
    Object.assign(this, { described, colours });
    this.values = arrays(described);
    [, this.rows, this.columns = 1] = described.shape;
    this.canvas = element("canvas");
  }

  show(step) {
    const start = step * this.rows * this.columns;
    this.step = step;
    this.colours.paint(this.canvas, this.columns, this.rows, this.described.scale, (x, y) => this.values[start + y * this.columns + x]);
  }

  at(x, y) {
    return numberOf(this.described, this.values[(this.step * this.rows + y) * this.columns + x]);
  }
}

/** A legend of a colour scale: the colours, and the numbers at its ends and in its middle. */
class Legend {
  constructor(described, colours, text) {
    Object.assign(this, { described, colours });
    this.canvas = element("canvas");
    const ends = [0, 0.25, 0.5, 0.75, 1].map((share) => element("span", {}, format(numberOf(described, share * (LEVELS - 1)))));
    this.root = element("div", { class: "legend" }, text, this.canvas, element("div", { class: "ends" }, ...ends));
  }

  paint() {
    this.colours.paint(this.canvas, LEVELS, 1, this.described.scale, (x) => x);
  }
}

/** The distribution or the numbers of a track at the current step, as bars. */
class Bars {
  constructor(track) {
    this.track = track;
    this.rows = track.described.labels.map((label) => {
      const parts = [
        element("span", { class: "label", title: label }, label),
        element("div", { class: "rail" }, element("div", { class: "bar" })),
        element("span", { class: "amount" }),
      ];
      return parts;
    });
    const heading = element("h4", {}, track.described.name);
    this.parts = [heading, ...this.rows.flat()];
  }

  show(step) {
    const { track } = this, { low, high } = track.array;
    const zero = -Math.min(low, 0) / (high - Math.min(low, 0) || 1);
    this.rows.forEach(([label, rail, amount], row) => {
      const number = track.at(step, row), place = (number - Math.min(low, 0)) / (high - Math.min(low, 0) || 1);
      rail.firstChild.style.left = `${100 * Math.min(zero, place)}%`;
      rail.firstChild.style.width = `${100 * Math.abs(place - zero)}%`;
      amount.textContent = format(number);
      label.classList.toggle("taken", Boolean(track.taken) && track.taken[step] === row);
    });
  }
}

/** An episode of one agent: what is now on the left, what was and will be on the right. */
class EpisodeView {
  constructor(episode, arrays, colours, player) {
    Object.assign(this, { episode, arrays, colours, player });
    this.steps = episode.steps;
    this.tracks = episode.tracks.map((track) => new Track(track, arrays, colours, this.steps, player));
    this.matrices = [];
    this.legends = [];
    this.now = element("div", { class: "now" });
    this.past = element("div", { class: "past" });
    this.root = element("div", { class: "body" }, this.now, this.past);
    this.addNumbers();
    this.addFrame();
    this.addBars();
    this.addMemory();
    this.addLinks();
    this.addGroups();
  }

  panel(title, ...children) {
    return element("section", { class: "panel", "aria-label": title }, element("h3", {}, title), ...children);
  }

  find(group, name) {
    return this.tracks.find((track) => track.described.group === group && track.described.name === name);
  }

  addNumbers() {
    const list = element("dl", { class: "numbers" });
    const names = ["reward", "return", "value"].filter((name) => this.find("agent", name));
    this.numbers = names.map((name) => {
      const number = element("dd");
      list.append(element("div", {}, element("dt", {}, name), number));
      return [this.find("agent", name), number];
    });
    if (names.length) this.now.append(element("section", { class: "panel", "aria-label": "numbers" }, list));
  }

  addFrame() {
    const { frames } = this.episode;
    if (!frames) return;
    this.frame = element("img", { class: "frame", alt: "the environment's frame", width: frames.width, height: frames.height });
    this.now.append(this.panel("Environment", this.frame));
  }

  addBars() {
    const shown = this.tracks.filter(({ described, columns }) => described.now && columns <= MAX_BARS);
    this.bars = shown.map((track) => new Bars(track));
    for (const title of ["Sees", "Does"]) {
      const bars = this.bars.filter(({ track }) => track.described.now === title);
      if (bars.length) this.now.append(this.panel(title, element("div", { class: "bars" }, ...bars.flatMap((each) => each.parts))));
    }
  }

  addMemory() {
    const { memory, heads } = this.episode;
    if (!memory) return;
    const contents = new Matrix(memory.values, this.arrays, this.colours);
    const height = contents.rows * Math.min(16, Math.max(1, Math.round(MATRIX / contents.rows)));
    const of = memory.count > contents.rows ? ` of ${memory.count}` : "";
    const caption = element("figcaption", {}, `${contents.rows}${of} slots × ${contents.columns}`);
    const figures = [element("figure", { class: "contents" }, caption, contents.canvas)];
    this.addMatrix(contents, memory.slots, height, "contents of the memory");
    for (const head of heads) {
      const column = new Matrix(head.weighting, this.arrays, this.colours);
      const short = head.name.replace(/^read /, "R").replace(/^write /, "W");
      figures.push(element("figure", { class: "head", title: head.name }, element("figcaption", {}, short), column.canvas));
      this.addMatrix(column, memory.slots, height, `weighting of ${head.name}`);
    }
    const ticks = [0, 0.25, 0.5, 0.75].map((share) => {
      const row = Math.floor(share * contents.rows), tick = element("span", {}, String(memory.slots[row]));
      tick.style.top = `${(100 * (row + 0.5)) / contents.rows}%`;
      return tick;
    });
    const slots = element("div", { class: "slots", "aria-hidden": "true" }, ...ticks);
    slots.style.height = `${height}px`;
    this.legends.push(new Legend(memory.values, this.colours, "contents"));
    if (heads.length) this.legends.push(new Legend(heads[0].weighting, this.colours, "weightings of read (R) and write (W) heads"));
    const legends = this.legends.map(({ root }) => root);
    this.now.append(this.panel("Memory", element("div", { class: "memory" }, slots, ...figures), ...legends));
  }

  addMatrix(matrix, slots, height, title) {
    matrix.canvas.style.height = `${height}px`;
    matrix.canvas.setAttribute("role", "img");
    matrix.canvas.setAttribute("aria-label", title);
    this.matrices.push(matrix);
    this.player.hover(matrix.canvas, (x, y) => {
      const row = Math.floor(y * matrix.rows), column = Math.floor(x * matrix.columns);
      const place = matrix.columns > 1 ? `slot ${slots[row]}, column ${column}` : `slot ${slots[row]}`;
      return `${title}\n${place}: ${format(matrix.at(column, row))}`;
    });
  }

  addLinks() {
    const { links } = this.episode;
    if (!links) return;
    const matrix = new Matrix(links.values, this.arrays, this.colours);
    this.matrices.push(matrix);
    this.player.hover(matrix.canvas, (x, y) => {
      const [row, column] = [Math.floor(y * matrix.rows), Math.floor(x * matrix.columns)];
      return `slot ${links.slots[row]} was written after slot ${links.slots[column]}: ${format(matrix.at(column, row))}`;
    });
    const text = element("p", { class: "muted" }, "row: slot, column: the slot written right before it");
    this.now.append(this.panel("Links", element("div", { class: "links" }, matrix.canvas), text));
  }

  addGroups() {
    const groups = new Map();
    for (const track of this.tracks) {
      const { group } = track.described;
      if (!groups.has(group)) groups.set(group, []);
      groups.get(group).push(track);
    }
    this.sentences = new Map();
    for (const [group, tracks] of groups) {
      const sentence = element("p", { class: "muted" });
      const title = group[0].toUpperCase() + group.slice(1);
      const heading = element("div", { class: "heading" }, element("h3", {}, title), sentence);
      this.sentences.set(group, sentence);
      const axis = this.axis();
      this.past.append(element("section", { class: "panel", "aria-label": title }, heading, axis, ...tracks.map(({ root }) => root)));
    }
  }

  axis() {
    const distance = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000].find((each) => this.steps / each <= 8) ?? 2000;
    const plot = element("div", { class: "plot", "aria-hidden": "true" });
    for (let step = 0; step < this.steps; step += distance) {
      const tick = element("span", {}, String(step));
      tick.style.left = `${(100 * (step + 0.5)) / this.steps}%`;
      plot.append(tick);
    }
    return element("div", { class: "track minor axis" }, element("div", { class: "name" }, element("small", {}, "step")), plot, element("div", { class: "reading" }));
  }

  /** Draws everything in the colours of the theme. */
  paint() {
    for (const part of [...this.tracks, ...this.legends]) part.paint();
  }

  /** Shows a step; an episode that has ended stays at its last. */
  show(step) {
    step = Math.min(step, this.steps - 1);
    const { frames } = this.episode;
    if (frames) {
      const url = frames.images[frames.index[step]];
      if (this.frame.src !== url) this.frame.src = url;
    }
    for (const [track, number] of this.numbers) number.textContent = format(track.at(step));
    for (const part of [...this.tracks, ...this.bars, ...this.matrices]) part.show(step);
    for (const head of this.episode.heads) this.showWriter(head, step);
  }

  /** Draws the arc from the step that wrote what a head reads, and says so. */
  showWriter(head, step) {
    if (!head.writers) return;
    const [steps, rows, shares] = head.writers.map((described) => this.arrays(described)[step]);
    const track = this.find(head.name, "weighting");
    const sentence = this.sentences.get(head.name);
    track.over.replaceChildren();
    track.mark.hidden = true;
    const source = steps < 0 ? "are initial contents" : `was written in step ${steps} to slot ${track.described.labels[rows]}`;
    sentence.textContent = shares > 0 ? `${Math.round(100 * shares)} % of what it reads ${source}` : "reads nothing";
    if (steps < 0) return;
    const [from, to, y] = [steps + 0.5, step + 0.5, rows + 0.5];
    const bend = Math.min(0.35 * track.columns, (to - from) * (track.columns / this.steps));
    const top = y > track.columns / 2 ? y - 2 * bend : y + 2 * bend;
    const curve = `M${from} ${y}Q${(from + to) / 2} ${top} ${to} ${y}`;
    track.over.append(element("path", { class: "halo", d: curve }), element("path", { class: "arc", d: curve }));
    for (const part of [track.over, track.mark]) part.style.opacity = Math.max(shares, 0.25); // of a minor source: pale
    track.mark.hidden = false;
    track.mark.style.left = `${(100 * from) / this.steps}%`;
    track.mark.style.top = `${(100 * y) / track.columns}%`;
  }

  /** Returns a sentence about a step for screen readers. */
  describe(step) {
    const numbers = this.numbers.map(([track]) => `${track.described.name} ${format(track.at(Math.min(step, this.steps - 1)))}`);
    return [`step ${step} of ${this.steps}`, ...numbers].join(", ");
  }
}

/** The page: one or several agents, a common time, and the controls. */
class Player {
  constructor(content, arrays) {
    this.content = content;
    this.arrays = arrays;
    this.colours = new Colours(content.colours);
    this.step = 0;
    this.speed = SPEEDS.indexOf(1);
    this.playing = false;
    this.drawn = -1;
    const names = ["back", "play", "forward", "slider", "step", "speed", "episode", "theme", "tip", "status", "sources", "title"];
    this.parts = Object.fromEntries(names.map((name) => [name, document.getElementById(name)]));
    document.title = content.title;
    this.parts.title.textContent = content.title;
    this.addOptions();
    this.addControls();
    this.followTheme();
    this.open(0);
  }

  addOptions() {
    for (const [index, speed] of SPEEDS.entries()) this.parts.speed.append(element("option", { value: index }, `${speed}×`));
    const [first] = this.content.sources;
    for (const [index, episode] of first.episodes.entries()) this.parts.episode.append(element("option", { value: index }, episode.name));
    this.parts.episode.hidden = first.episodes.length < 2;
  }

  addControls() {
    const { back, play, forward, slider, speed, episode } = this.parts;
    back.addEventListener("click", () => this.goTo(this.step - 1));
    forward.addEventListener("click", () => this.goTo(this.step + 1));
    play.addEventListener("click", () => this.toggle());
    slider.addEventListener("input", () => this.goTo(Number(slider.value)));
    speed.addEventListener("change", () => this.setSpeed(Number(speed.value)));
    episode.addEventListener("change", () => this.open(Number(episode.value)));
    document.addEventListener("keydown", (event) => this.onKey(event));
  }

  followTheme() {
    const dark = matchMedia("(prefers-color-scheme: dark)");
    const follow = () => this.setTheme(dark.matches ? "dark" : "light");
    dark.addEventListener("change", follow);
    this.parts.theme.addEventListener("click", () => this.setTheme(this.colours.theme === "dark" ? "light" : "dark"));
    follow();
  }

  setTheme(theme) {
    this.colours.theme = theme;
    document.documentElement.dataset.theme = theme;
    for (const view of this.views ?? []) view.paint();
    this.draw();
  }

  /** Shows an episode of each agent. */
  open(index) {
    const { sources } = this.content;
    this.index = Math.min(Math.max(index, 0), sources[0].episodes.length - 1);
    this.views = [];
    this.parts.sources.replaceChildren();
    this.parts.sources.style.setProperty("--count", sources.length);
    this.parts.sources.classList.toggle("several", sources.length > 1);
    for (const source of sources) {
      const episode = source.episodes[Math.min(this.index, source.episodes.length - 1)];
      const view = new EpisodeView(episode, this.arrays, this.colours, this);
      const lines = [...source.details, episode.name].join(" · ");
      const head = element("div", {}, element("h2", {}, source.name), element("p", { class: "muted" }, lines));
      this.parts.sources.append(element("article", { class: "source", "aria-label": source.name }, head, view.root));
      this.views.push(view);
    }
    this.steps = Math.max(...this.views.map((view) => view.steps));
    this.parts.slider.max = this.steps - 1;
    this.parts.episode.value = this.index;
    this.parts.speed.value = this.speed;
    for (const view of this.views) view.paint();
    this.goTo(0);
  }

  goTo(step) {
    this.step = Math.min(Math.max(step, 0), this.steps - 1);
    this.draw();
    if (!this.playing) this.parts.status.textContent = this.views[0].describe(this.step);
  }

  draw() {
    if (!this.views?.length) return;
    for (const view of this.views) view.show(this.step);
    this.parts.slider.value = this.step;
    this.parts.step.textContent = `step ${this.step} of ${this.steps}`;
  }

  toggle(playing = !this.playing) {
    if (playing === this.playing) return;
    this.playing = playing;
    const { play } = this.parts;
    play.setAttribute("aria-pressed", String(playing));
    play.setAttribute("aria-label", playing ? "Pause" : "Play");
    play.classList.toggle("playing", playing);
    if (!playing) return;
    if (this.step === this.steps - 1) this.goTo(0);
    this.time = performance.now();
    requestAnimationFrame((now) => this.tick(now));
  }

  /** Advances by the steps that are due since the last frame of the browser. */
  tick(now) {
    if (!this.playing) return;
    const duration = 1000 / (this.content.fps * SPEEDS[this.speed]);
    const due = Math.floor((now - this.time) / duration);
    if (due > 0) {
      this.time += due * duration;
      this.goTo(this.step + due);
    }
    if (this.step === this.steps - 1) this.toggle(false);
    else requestAnimationFrame((next) => this.tick(next));
  }

  setSpeed(index) {
    this.speed = Math.min(Math.max(index, 0), SPEEDS.length - 1);
    this.parts.speed.value = this.speed;
    this.time = performance.now();
  }

  onKey(event) {
    if (event.altKey || event.ctrlKey || event.metaKey || event.target instanceof HTMLSelectElement) return;
    const distance = event.shiftKey ? 10 : 1;
    const actions = {
      ArrowLeft: () => this.goTo(this.step - distance),
      ArrowRight: () => this.goTo(this.step + distance),
      Home: () => this.goTo(0),
      End: () => this.goTo(this.steps - 1),
      PageUp: () => this.open(this.index - 1),
      PageDown: () => this.open(this.index + 1),
      "-": () => this.setSpeed(this.speed - 1),
      "+": () => this.setSpeed(this.speed + 1),
    };
    if (!(event.target instanceof HTMLButtonElement)) actions[" "] = () => this.toggle();
    if (!(event.key in actions)) return;
    event.preventDefault();
    actions[event.key]();
  }

  /** Shows numbers beside the pointer; `describe` gets its place in the element, from 0 to 1. */
  hover(target, describe) {
    const { tip } = this.parts;
    target.addEventListener("pointermove", (event) => {
      const box = target.getBoundingClientRect();
      const place = (at, start, size) => Math.min(Math.max((at - start) / size, 0), 1 - 1e-9);
      tip.textContent = describe(place(event.clientX, box.left, box.width), place(event.clientY, box.top, box.height));
      tip.hidden = false;
      const { width, height } = tip.getBoundingClientRect();
      tip.style.left = `${Math.min(event.clientX + 14, innerWidth - width - 8)}px`;
      tip.style.top = `${event.clientY + 18 + height > innerHeight ? event.clientY - height - 12 : event.clientY + 18}px`;
    });
    target.addEventListener("pointerleave", () => (tip.hidden = true));
  }

  /** As `hover`; a click or a drag goes to the step under the pointer. */
  followPointer(target, describe, steps) {
    this.hover(target, describe);
    const go = (event) => {
      const box = target.getBoundingClientRect();
      this.goTo(Math.floor(((event.clientX - box.left) / box.width) * steps));
    };
    target.addEventListener("pointerdown", (event) => {
      this.toggle(false);
      if (event.pointerType !== "touch") target.setPointerCapture(event.pointerId);
      go(event);
    });
    target.addEventListener("pointermove", (event) => event.buttons === 1 && go(event));
  }

  /** Returns the milliseconds that drawing each of `count` steps takes. */
  measure(count) {
    return Array.from({ length: count }, (_, index) => {
      const start = performance.now();
      this.goTo(Math.floor((index * this.steps) / count));
      document.body.getBoundingClientRect(); // forces the layout
      return performance.now() - start;
    });
  }
}

loadArrays(document.getElementById("arrays").textContent).then((arrays) => {
  const content = JSON.parse(document.getElementById("document").textContent);
  globalThis.player = new Player(content, arrays);
});
