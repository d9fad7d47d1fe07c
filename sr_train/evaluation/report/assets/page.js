"use strict";
// The page: sections from the data that is in the element #data.

const DATA = JSON.parse(document.getElementById("data").textContent);
const MAIN = document.getElementById("main");

function section(title) {
  const id = title.toLowerCase().replace(/[^a-z0-9]+/g, "-");
  const made = element("section", { "aria-labelledby": id }, element("h2", { id }, title));
  MAIN.append(made);
  return made;
}

function facts(pairs) {
  const list = element("dl", { class: "facts" });
  for (const [name, value] of pairs) {
    if (value === null || value === undefined || value === "") continue;
    list.append(element("dt", {}, name), element("dd", {}, value));
  }
  return list;
}

// Order of two cells: numbers, then text; missing values are last in both directions.
function compared(a, b, sign) {
  const kind = (value) => (value === null || value === undefined || value === "" ? 2 : typeof value === "number" ? 0 : 1);
  if (kind(a) !== kind(b)) return kind(a) === 2 || kind(b) === 2 ? kind(a) - kind(b) : sign * (kind(a) - kind(b));
  return sign * (kind(a) === 0 ? a - b : String(a ?? "").localeCompare(String(b ?? ""), "en", { numeric: true }));
}

// A table whose columns can be sorted; numbers are aligned at the right.
function table(names, rows, { caption = "", marked = () => "", sortable = true } = {}) {
  const head = element("tr");
  const body = element("tbody");
  const fill = (order) => {
    body.replaceChildren(...order.map((row) => element("tr", { class: marked(row) || null },
      ...row.map((cell) => (typeof cell === "number" ? element("td", { class: "number" }, number(cell)) : element("td", {}, cell ?? ""))))));
  };
  names.forEach((name, i) => {
    const cell = element("th", { scope: "col", "aria-sort": "none" });
    const sort = () => {
      const up = cell.getAttribute("aria-sort") !== "ascending";
      for (const other of head.children) other.setAttribute("aria-sort", "none");
      cell.setAttribute("aria-sort", up ? "ascending" : "descending");
      fill([...rows].sort((a, b) => compared(a[i], b[i], up ? 1 : -1)));
    };
    cell.append(sortable ? element("button", { type: "button", onclick: sort }, name) : name);
    head.append(cell);
  });
  fill(rows);
  const made = element("table", {}, caption ? element("caption", {}, caption) : null, element("thead", {}, head), body);
  return element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `Table: ${caption}` }, made);
}

function duration(seconds) {
  if (!seconds) return "";
  const hours = Math.floor(seconds / 3600), minutes = Math.floor(seconds / 60) % 60;
  return hours ? `${hours} h ${minutes} min` : minutes ? `${minutes} min ${Math.round(seconds % 60)} s` : `${seconds.toFixed(1)} s`;
}

// In a shell, a command that can be typed again.
function typed(words) {
  return words.map((word) => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`)).join(" ");
}

function overview(runs) {
  const host = section("Overview");
  for (const run of runs) {
    host.append(element("h3", {}, run.name));
    const last = run.stages.flatMap((s) => s.sittings).at(-1);
    if (last && last.command.length) host.append(element("p", {}, "The command that continues or repeats the run:"), element("pre", {}, `sr-train ${typed(last.command)}`));
    const rows = run.stages.map((s) => [s.name, s.finished ? "finished" : "not finished", `${s.step}${s.steps ? ` of ${s.steps}` : ""}`, s.model, s.task,
      s.data.join(", "), duration(s.seconds), Math.max(0, s.sittings.length - 1), s.events.filter((e) => e.what.startsWith("refused")).length]);
    host.append(table(["stage", "state", "steps", "network", "task", "data", "time", "resumes", "refused steps"], rows, { caption: `Stages of ${run.name}`, sortable: false }));
    const machine = last ? [["host", last.host], ["device", last.device], ["processes", String(last.processes)],
      ...Object.entries(last.versions)] : Object.entries(run.stages.at(-1).environment);
    host.append(facts(machine.map(([k, v]) => [k, String(v)])));
  }
}

function curves(runs) {
  const several = runs.length > 1 || runs[0].stages.length > 1;
  const groups = new Map();
  runs.forEach((run, r) => run.stages.forEach((stage) => {
    for (const curve of stage.curves) {
      const name = `${stage.name}: ${curve.chart}`;
      if (!groups.has(name)) groups.set(name, { title: several ? name : curve.chart, curves: [], marks: [], names: [] });
      const group = groups.get(name);
      if (!group.names.includes(curve.name)) group.names.push(curve.name);
      const label = curve.name.replace(/^(train|speed)\//, "") + (runs.length > 1 ? ` (${run.name})` : "");
      group.curves.push({ ...curve, label, run: r, color: group.names.indexOf(curve.name) });
      group.marks = [...group.marks, ...stage.events.filter((e) => !group.marks.some((m) => m.step === e.step))];
    }
  }));
  if (groups.size) new Charts(section("Curves"), [...groups.values()]);
}

function scores(runs) {
  const rows = [];
  for (const run of runs) for (const stage of run.stages) {
    for (const [name, value] of Object.entries(stage.scores)) {
      const [set, protocol, metric] = name.split("/");
      rows.push([run.name, stage.name, set, protocol, metric, value, stage.best_scores[name] ?? null, stage.best ?? null]);
    }
  }
  const images = runs.flatMap((run) => run.stages.filter((s) => s.images.rows).map((s) => [run, s]));
  if (!rows.length && !images.length) return;
  const host = section("Scores");
  if (rows.length) host.append(table(["run", "stage", "set", "protocol", "metric", "last step", "best network", "step of the best"], rows, { caption: "Scores of the validation sets" }));
  for (const [run, stage] of images) {
    host.append(element("details", {}, element("summary", {}, `${run.name}, ${stage.name}: each image`), table(stage.images.names, stage.images.rows, { caption: `Scores of each image: ${run.name}, ${stage.name}` })));
  }
}

function details(runs) {
  const host = section("Details");
  for (const run of runs) for (const stage of run.stages) {
    const box = element("details", {}, element("summary", {}, `${run.name}, ${stage.name}: initial weights, events, config`));
    host.append(box);
    if (stage.initial.length) box.append(element("h3", {}, "Initial weights"), element("pre", {}, stage.initial.join("\n")));
    if (stage.events.length) box.append(table(["step", "event", "images"], stage.events.map((e) => [e.step, e.what, e.images]), { caption: `Events of ${stage.name}` }));
    if (stage.sittings.length) box.append(table(["begin", "end", "from step", "to step", "host", "device", "ended by"], stage.sittings.map((s) => [s.begin, s.end, s.first_step, s.last_step, s.host, s.device, s.outcome]), { caption: `Processes that trained ${stage.name}` }));
    const changed = new Set(stage.changed);
    const isChanged = (key) => [...changed].some((c) => key === c || key.startsWith(`${c}.`));
    box.append(table(["key", "value"], Object.entries(stage.config), { caption: `Config of ${stage.name}${changed.size ? "; keys that the command set are marked" : ""}`, marked: ([key]) => (isChanged(key) ? "changed" : "") }));
  }
  if (runs.length > 1) {
    const names = [...new Set(runs.flatMap((r) => r.stages.map((s) => s.name)))];
    for (const name of names) {
      const found = runs.filter((r) => r.stages.some((s) => s.name === name));
      const configs = found.map((r) => r.stages.find((s) => s.name === name).config);
      const keys = [...new Set(configs.flatMap(Object.keys))].filter((k) => new Set(configs.map((c) => c[k])).size > 1);
      if (found.length > 1 && keys.length) host.append(element("h3", {}, `Differences of the configs, stage ${name}`), table(["key", ...found.map((r) => r.name)], keys.map((k) => [k, ...configs.map((c) => c[k] ?? "–")]), { caption: `Differences, stage ${name}` }));
    }
  }
}

function start() {
  const { runs, tables, charts, galleries } = DATA;
  if (runs.length) overview(runs);
  for (const found of tables) {
    const host = section(found.title);
    host.append(table(found.names, found.rows, { caption: found.title }));
    for (const note of found.notes || []) host.append(element("p", { class: "quiet" }, note));
  }
  if (charts.length) {
    new Charts(section("Curves"), charts.map((c) => ({ ...c, marks: [], curves: c.curves.map((curve, i) => ({ ...curve, run: 0, color: i })) })));
  }
  if (runs.length) {
    scores(runs);
    curves(runs);
  }
  const own = runs.flatMap((run) => run.stages.filter((s) => s.pictures.length).map((s) => ({ title: `${runs.length > 1 ? `${run.name}, ` : ""}${s.name}`, images: s.pictures, label: "step" })));
  const all = [...galleries, ...own];
  if (all.length) {
    const host = section("Pictures");
    for (const found of all) {
      host.append(element("h3", {}, found.title));
      if (found.note) host.append(element("p", { class: "quiet" }, found.note));
      gallery(host, found);
    }
  }
  if (runs.length) details(runs);
  const list = element("ul");
  for (const title of MAIN.querySelectorAll("h2")) list.append(element("li", {}, element("a", { href: `#${title.id}` }, title.textContent)));
  document.getElementById("contents").append(list);
  document.documentElement.dataset.ready = "true";
}

start();
