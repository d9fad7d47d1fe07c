"use strict";
// Pictures: parts side by side with one magnifier for all, error maps, and a slider between two parts.

function decoded(source) {
  return new Promise((resolve, reject) => {
    const image = new Image();
    image.onload = () => resolve(image);
    image.onerror = () => reject(new Error("a picture of the page is damaged"));
    image.src = source;
  });
}

function pixels(image, side) {
  const canvas = element("canvas", { width: side, height: side });
  const draw = canvas.getContext("2d", { willReadFrequently: true });
  draw.drawImage(image, 0, 0, side, side);
  return canvas;
}

// Map of |a - b|, averaged over colors and multiplied by 8, from black over orange to white.
function errorMap(a, b, side) {
  const canvas = element("canvas", { width: side, height: side });
  const draw = canvas.getContext("2d");
  const [x, y] = [a, b].map((c) => c.getContext("2d").getImageData(0, 0, side, side).data);
  const out = draw.createImageData(side, side);
  for (let i = 0; i < x.length; i += 4) {
    const error = 8 * (Math.abs(x[i] - y[i]) + Math.abs(x[i + 1] - y[i + 1]) + Math.abs(x[i + 2] - y[i + 2])) / 3;
    out.data.set([Math.min(255, 2 * error), Math.min(255, error), Math.max(0, Math.min(255, 2 * error - 255)), 255], i);
  }
  draw.putImageData(out, 0, 0);
  return canvas;
}

const ERROR = "error"; // the map of the picture that is chosen for the right side

class Picture {
  constructor(host, image, label, note) {
    Object.assign(this, { image, label, side: image.side, zoom: null });
    this.box = element("article", { class: "picture", "aria-label": `Pictures of ${image.name}` }, element("h4", {}, image.name));
    host.append(this.box);
    this.at = image.steps.length - 1;
    this.ready = this.build(note);
  }

  async build() {
    const { image, side } = this;
    const fixed = await Promise.all(Object.entries(image.parts).map(async ([name, uri]) => [name, pixels(await decoded(uri), side)]));
    this.fixed = Object.fromEntries(fixed);
    this.cache = new Map();
    const known = ["LR", "bicubic", "SR", "HR"];
    const others = Object.keys(this.fixed).filter((n) => !known.includes(n));
    const names = [...["LR", "bicubic"].filter((n) => n in this.fixed), ...(image.steps.length ? ["SR"] : []), ...others,
      ...(this.fixed.HR ? ["HR", ERROR] : [])];
    this.views = {};
    const parts = element("div", { class: "parts" });
    for (const name of names) {
      const canvas = element("canvas", { width: side, height: side });
      const view = element("div", { class: "view" }, canvas);
      const caption = element("figcaption", {}, name);
      parts.append(element("figure", {}, view, caption));
      this.views[name] = { canvas, caption };
      view.addEventListener("pointermove", (event) => this.magnify(view, event));
      view.addEventListener("pointerleave", () => { this.zoom = null; this.draw(); });
    }
    const sides = element("div", { class: "sides" });
    sides.append(this.compare(names.filter((n) => n !== ERROR)), element("div", {}, this.steps(), parts));
    this.box.append(sides);
    if (image.steps.length) await this.show(this.at);
    else this.draw();
  }

  steps() {
    const { steps } = this.image;
    this.named = element("output", {});
    if (!steps.length) return "";
    if (steps.length < 2) return element("div", { class: "controls" }, element("span", {}, `SR at ${this.label} `, this.named));
    const range = element("input", { type: "range", min: 0, max: steps.length - 1, step: 1, value: this.at, class: "steps",
      "aria-label": `${this.label} of SR, ${this.image.name}` });
    range.addEventListener("input", () => this.show(Number(range.value)));
    this.range = range;
    return element("div", { class: "controls" }, element("label", {}, `SR at ${this.label}`, range, this.named),
      element("span", { class: "quiet" }, "Point at a picture to see that place larger in all of them."));
  }

  compare(names) {
    const select = (chosen, text) => {
      const box = element("select", { "aria-label": `${text} picture, ${this.image.name}` });
      for (const name of names) box.append(element("option", { selected: name === chosen }, name));
      box.addEventListener("change", () => this.draw());
      return box;
    };
    this.left = select(names.includes("bicubic") ? "bicubic" : names[0], "Left");
    this.right = select(names.includes("SR") ? "SR" : names.filter((n) => n !== "HR").at(-1), "Right");
    const frame = element("div", { class: "compare" });
    this.under = element("canvas", { width: this.side, height: this.side });
    this.over = element("canvas", { width: this.side, height: this.side });
    this.edge = element("div", { class: "edge" });
    this.leftName = element("span", { class: "name left" });
    this.rightName = element("span", { class: "name right" });
    frame.append(this.under, this.over, this.edge, this.leftName, this.rightName);
    this.slider = element("input", { type: "range", min: 0, max: 100, value: 50, class: "slider", "aria-label": `Border between the pictures, ${this.image.name}` });
    this.slider.addEventListener("input", () => this.split());
    const drag = (event) => {
      if (event.type === "pointermove" && event.pointerType !== "mouse" && !event.buttons) return;
      const area = frame.getBoundingClientRect();
      this.slider.value = 100 * (event.clientX - area.left) / area.width;
      this.split();
    };
    frame.addEventListener("pointermove", drag);
    frame.addEventListener("pointerdown", drag);
    return element("div", {}, element("div", { class: "controls" }, this.left, this.right), frame, element("div", { class: "controls" }, this.slider));
  }

  split() {
    const share = Number(this.slider.value);
    this.over.style.clipPath = `inset(0 ${100 - share}% 0 0)`;
    this.edge.style.left = `calc(${share}% - 1px)`;
  }

  async show(at) {
    this.at = at;
    const { step, src } = this.image.steps[at];
    if (!this.cache.has(at)) this.cache.set(at, pixels(await decoded(src), this.side));
    if (this.at !== at) return; // the slider has moved on
    this.named.textContent = String(step);
    if (this.range) this.range.value = at;
    this.draw();
  }

  magnify(view, event) {
    const area = view.getBoundingClientRect();
    this.zoom = [(event.clientX - area.left) / area.width, (event.clientY - area.top) / area.height];
    this.draw();
  }

  draw() {
    const { side } = this;
    this.sources = { ...this.fixed };
    if (this.image.steps.length) this.sources.SR = this.cache.get(this.at);
    if (this.fixed.HR) {
      const [shown, step] = [this.right.value, this.at];
      if (this.error?.shown !== shown || this.error?.step !== step) this.error = { shown, step, map: errorMap(this.sources[shown], this.fixed.HR, side) };
      this.sources[ERROR] = this.error.map;
      this.views[ERROR].caption.textContent = `error of ${shown} x 8`;
    }
    const part = this.zoom ? Math.round(side / 4) : side;
    const [x, y] = (this.zoom || [0, 0]).map((at) => Math.max(0, Math.min(side - part, Math.round(at * side - part / 2))));
    for (const [name, view] of Object.entries(this.views)) {
      const draw = view.canvas.getContext("2d");
      draw.imageSmoothingEnabled = false;
      draw.drawImage(this.sources[name], x, y, part, part, 0, 0, side, side);
    }
    for (const [canvas, select, label] of [[this.over, this.left, this.leftName], [this.under, this.right, this.rightName]]) {
      canvas.getContext("2d").drawImage(this.sources[select.value], 0, 0);
      label.textContent = select.value;
    }
    this.split();
  }
}

// Draw pictures when they come into view, so that a page with many of them opens at once.
function gallery(host, found) {
  const box = element("div", { class: "gallery" });
  host.append(box);
  const pending = new Map();
  const watch = new IntersectionObserver((entries) => {
    for (const entry of entries.filter((e) => e.isIntersecting)) {
      const image = pending.get(entry.target);
      watch.unobserve(entry.target);
      entry.target.style.minHeight = "";
      new Picture(entry.target, image, found.label || "step");
    }
  }, { rootMargin: "400px" });
  for (const image of found.images) {
    const place = element("div", { style: "min-height: 24rem" });
    pending.set(place, image);
    box.append(place);
    watch.observe(place);
  }
}
