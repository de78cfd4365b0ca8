/* Pictures over time, which tracks.py describes. */

const MAX_NAMES = 12;
const HEIGHTS = { line: 34, minor: 20, row: 13, most: 96, vector: 40 }; // pixels

/** A picture over time: a heat map or a curve, with its name, the number at the current step, and a cursor. */
class Track {
  constructor(described, arrays, colours, steps, player) {
    Object.assign(this, { described, colours, steps, player });
    this.array = described.values;
    this.values = arrays(this.array);
    this.columns = this.array.shape[1] ?? 1;
    this.taken = described.taken && arrays(described.taken);
    const title = `${described.group}, ${described.name} over steps`;
    this.plot = element("div", { class: "plot", role: "img", "aria-label": title });
    this.plot.style.height = `${this.height()}px`;
    [this.number, this.detail] = [new Text(), new Text()];
    this.reading = element("div", { class: "reading" }, this.number, " ", element("small", {}, this.detail));
    this.cursor = element("div", { class: "cursor" });
    this.cursor.style.width = `max(1px, ${100 / steps}%)`;
    const name = described.name === described.group ? "" : described.name;
    this.name = element("div", { class: "name" }, element("span", {}, name, element("small", {}, this.range())));
    const kind = described.minor ? "track minor" : "track";
    this.root = element("div", { class: kind }, this.name, this.plot, this.reading);
    if (described.kind === "heat") this.addHeat();
    else this.addCurve();
    const viewBox = `0 0 ${steps} ${Math.max(this.columns, 1)}`;
    this.over = element("svg", { class: "over", viewBox, preserveAspectRatio: "none" });
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
    const numbers = scale === "diverging" ? `±${format(high)}` : `${format(low)} … ${format(high)}`;
    const { left_out: leftOut } = this.described;
    return leftOut ? `${numbers}, first ${this.columns} of ${this.columns + leftOut}` : numbers;
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
    const viewBox = `0 -0.06 ${this.steps} 1.12`; // room for the width of the curve
    const svg = element("svg", { viewBox, preserveAspectRatio: "none", "aria-hidden": "true" });
    if (zero >= 0 && zero <= 1) {
      svg.append(element("line", { class: "zero", x1: 0, x2: this.steps, y1: zero, y2: zero }));
    }
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
    let [best, size] = [0, -1];
    for (let row = 0; row < this.columns; row++) {
      const own = Math.abs(this.at(step, row));
      if (own > size) [best, size] = [row, own];
    }
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
