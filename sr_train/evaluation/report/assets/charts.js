"use strict";
// Curves: one uPlot chart for each kind of number, all runs and stages in it.

// Okabe and Ito's palette, distinguishable with all kinds of color blindness; runs differ in dashes as well.
const COLORS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d31", "#7f7f7f"];
const DASHES = [[], [8, 4], [2, 3], [10, 4, 2, 4]];

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

// Exponential moving average with the weight `keep` for the past, corrected for its start.
function smoothed(values, keep) {
  if (!keep) return values;
  let sum = 0, weight = 0;
  return values.map((value) => {
    if (value === null || value === undefined) return value;
    sum = keep * sum + (1 - keep) * value;
    weight = keep * weight + (1 - keep);
    return sum / weight;
  });
}

// Join curves with steps of their own to uPlot's columns: one sorted column of steps, and gaps (null) elsewhere.
function aligned(curves, keep) {
  const steps = [...new Set(curves.flatMap((c) => c.steps))].sort((a, b) => a - b);
  const place = new Map(steps.map((step, i) => [step, i]));
  const columns = curves.map((c) => {
    const column = new Array(steps.length).fill(undefined); // undefined: no point here, the line goes on
    const values = smoothed(c.values, keep);
    c.steps.forEach((step, i) => { column[place.get(step)] = values[i]; });
    return column;
  });
  return [steps, ...columns];
}

function number(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  const size = Math.abs(value);
  if (Number.isInteger(value) && size < 1e7) return String(value);
  return size >= 1e5 || (size > 0 && size < 1e-3) ? value.toExponential(2) : value.toPrecision(5).replace(/\.?0+$/, "");
}

class Charts {
  // `groups`: [{title, curves: [{label, steps, values, run, color}], marks: [{step, what}]}]
  constructor(host, groups) {
    this.keep = 0;
    this.drawn = [];
    const smooth = element("input", { type: "range", min: 0, max: 0.98, step: 0.02, value: 0, "aria-label": "Smoothing of curves" });
    const shown = element("output", {}, "0");
    smooth.addEventListener("input", () => {
      this.keep = Number(smooth.value);
      shown.textContent = smooth.value;
      for (const chart of this.drawn) chart.plot.setData(aligned(chart.curves, this.keep), false);
    });
    host.append(
      element("div", { class: "controls" }, element("label", {}, "Smoothing", smooth, shown),
        element("span", { class: "quiet" }, "Drag across a chart to zoom in, double-click to zoom out. Click a name to hide its curve.")));
    const grid = element("div", { class: "charts" });
    host.append(grid);
    for (const group of groups) this.add(grid, group);
    const resize = new ResizeObserver(() => {
      for (const chart of this.drawn) {
        const width = chart.box.clientWidth - 18;
        if (Math.abs(width - chart.plot.width) > 1 && width > 50) chart.plot.setSize({ width, height: 260 });
      }
    });
    resize.observe(grid);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.drawn.forEach((c) => c.plot.redraw()));
  }

  add(grid, group) {
    const positive = group.curves.every((c) => c.values.every((v) => v === null || v > 0));
    const box = element("section", { class: "chart", role: "group", "aria-label": `Chart: ${group.title}` });
    grid.append(box);
    const chart = { box, curves: group.curves, log: false };
    const log = element("button", { type: "button", "aria-pressed": "false", disabled: !positive,
      title: positive ? "Logarithmic axis" : "Not possible: there are values of 0 or less" }, "log");
    const reset = element("button", { type: "button" }, "whole");
    box.append(element("h3", {}, group.title, element("span", {}, log, " ", reset)));
    const build = () => {
      if (chart.plot) chart.plot.destroy();
      chart.plot = new uPlot(this.options(group, box.clientWidth - 18, chart.log), aligned(group.curves, this.keep), box);
      chart.plot.root.setAttribute("role", "img");
      chart.plot.root.setAttribute("aria-label", summary(group));
    };
    log.addEventListener("click", () => {
      chart.log = !chart.log;
      log.setAttribute("aria-pressed", String(chart.log));
      build();
    });
    reset.addEventListener("click", () => chart.plot.setData(aligned(group.curves, this.keep), true));
    build();
    this.drawn.push(chart);
  }

  options(group, width, log) {
    const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
    const axis = { stroke: () => color("--text"), grid: { stroke: () => color("--line"), width: 0.5 }, ticks: { stroke: () => color("--line") } };
    return {
      width, height: 260,
      cursor: { sync: { key: "steps" }, drag: { x: true, y: false } },
      scales: { x: { time: false }, y: { distr: log ? 3 : 1 } },
      axes: [{ ...axis, values: (_, ticks) => ticks.map(short) }, { ...axis, size: 62, values: (_, ticks) => ticks.map((t) => (t === null ? "" : number(t))) }],
      series: [{ label: group.label || "step", value: (_, v) => number(v) },
        ...group.curves.map((c) => ({
          label: c.label, stroke: COLORS[c.color % COLORS.length], dash: DASHES[c.run % DASHES.length], width: 1.6,
          spanGaps: false, points: { show: c.steps.length < 30, size: 5 }, value: (_, v) => number(v),
        }))],
      hooks: { draw: [(plot) => marks(plot, group.marks, color("--quiet"))] },
    };
  }
}

function short(step) {
  if (step === null) return "";
  return step >= 1e6 ? `${step / 1e6}M` : step >= 1e4 ? `${step / 1e3}k` : String(step);
}

// One sentence for readers who do not see the chart.
function summary(group) {
  const parts = group.curves.slice(0, 8).map((c) => {
    const known = c.values.filter((v) => v !== null);
    return known.length ? `${c.label} from ${number(known[0])} to ${number(known[known.length - 1])}` : `${c.label}: no values`;
  });
  return `${group.title}: ${parts.join("; ")}`;
}

// Vertical lines at refused steps and resumes.
function marks(plot, found, color) {
  const draw = plot.ctx;
  draw.save();
  draw.strokeStyle = color;
  draw.setLineDash([3, 4]);
  for (const mark of found) {
    if (mark.step < plot.scales.x.min || mark.step > plot.scales.x.max) continue;
    const x = Math.round(plot.valToPos(mark.step, "x", true));
    draw.beginPath();
    draw.moveTo(x, plot.bbox.top);
    draw.lineTo(x, plot.bbox.top + plot.bbox.height);
    draw.stroke();
  }
  draw.restore();
}
