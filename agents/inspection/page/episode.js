/* An episode: the current step on the left, all steps on the right. */

const MAX_BARS = 20;
const MATRIX = 256; // pixels, about the height of the memory

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
    const levelAt = (x, y) => this.values[start + y * this.columns + x];
    this.colours.paint(this.canvas, this.columns, this.rows, this.described.scale, levelAt);
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
    const ends = [0, 0.25, 0.5, 0.75, 1].map((share) => {
      return element("span", {}, format(numberOf(described, share * (LEVELS - 1))));
    });
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

/** An episode of one agent: the current step on the left, pictures of all steps on the right. */
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
    const { width, height } = frames;
    this.frame = element("img", { class: "frame", alt: "the environment's frame", width, height });
    this.now.append(this.panel("Environment", this.frame));
  }

  addBars() {
    const shown = this.tracks.filter(({ described, columns }) => described.now && columns <= MAX_BARS);
    this.bars = shown.map((track) => new Bars(track));
    for (const title of ["Sees", "Does"]) {
      const parts = this.bars.filter(({ track }) => track.described.now === title).flatMap((each) => each.parts);
      if (parts.length) this.now.append(this.panel(title, element("div", { class: "bars" }, ...parts)));
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
      const caption = element("figcaption", {}, short);
      figures.push(element("figure", { class: "head", title: head.name }, caption, column.canvas));
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
    if (heads.length) {
      this.legends.push(new Legend(heads[0].weighting, this.colours, "weightings of read (R) and write (W) heads"));
    }
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
      const number = format(matrix.at(column, row));
      return `slot ${links.slots[row]} was written after slot ${links.slots[column]}: ${number}`;
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
      const roots = tracks.map(({ root }) => root);
      this.past.append(element("section", { class: "panel", "aria-label": title }, heading, axis, ...roots));
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
    const name = element("div", { class: "name" }, element("small", {}, "step"));
    return element("div", { class: "track minor axis" }, name, plot, element("div", { class: "reading" }));
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
    const written = `was written in step ${steps} to slot ${track.described.labels[rows]}`;
    const source = steps < 0 ? "are initial contents" : written;
    sentence.textContent = shares > 0 ? `${Math.round(100 * shares)} % of what it reads ${source}` : "reads nothing";
    if (steps < 0) return;
    const [from, to, y] = [steps + 0.5, step + 0.5, rows + 0.5];
    const bend = Math.min(0.35 * track.columns, (to - from) * (track.columns / this.steps));
    const top = y > track.columns / 2 ? y - 2 * bend : y + 2 * bend;
    const curve = `M${from} ${y}Q${(from + to) / 2} ${top} ${to} ${y}`;
    track.over.append(element("path", { class: "halo", d: curve }), element("path", { class: "arc", d: curve }));
    for (const part of [track.over, track.mark]) part.style.opacity = Math.max(shares, 0.35); // of a minor source: pale
    track.mark.hidden = false;
    track.mark.style.left = `${(100 * from) / this.steps}%`;
    track.mark.style.top = `${(100 * y) / track.columns}%`;
  }

  /** Returns a sentence about a step for screen readers. */
  describe(step) {
    const last = Math.min(step, this.steps - 1);
    const numbers = this.numbers.map(([track]) => `${track.described.name} ${format(track.at(last))}`);
    return [`step ${step} of ${this.steps}`, ...numbers].join(", ");
  }
}
