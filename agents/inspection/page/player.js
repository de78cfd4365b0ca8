/* Time, controls and the page. */

const SPEEDS = [0.25, 0.5, 1, 2, 4, 8, 16];

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
    const controls = ["back", "play", "forward", "slider", "step", "speed", "episode", "theme"];
    const names = [...controls, "tip", "status", "sources", "title"];
    this.parts = Object.fromEntries(names.map((name) => [name, document.getElementById(name)]));
    document.title = content.title;
    this.parts.title.textContent = content.title;
    this.addOptions();
    this.addControls();
    this.followTheme();
    this.open(0);
  }

  addOptions() {
    const add = (select, value, text) => select.append(element("option", { value }, text));
    SPEEDS.forEach((speed, index) => add(this.parts.speed, index, `${speed}×`));
    const [first] = this.content.sources;
    first.episodes.forEach((episode, index) => add(this.parts.episode, index, episode.name));
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
      const below = event.clientY + 18;
      tip.style.top = `${below + height > innerHeight ? event.clientY - height - 12 : below}px`;
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
