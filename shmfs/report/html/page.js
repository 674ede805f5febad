"use strict";
(() => {
const D = JSON.parse(document.getElementById("data").textContent);
const root = document.documentElement, main = document.getElementById("main"), tip = document.getElementById("tip");
const MINOR = 0, MAJOR = 1, FAILED = 2, UNKNOWN = 3;
const HUES = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442"]; // Okabe and Ito
const KINDS = [["minor", "#56b4e9"], ["major", "#e69f00"], ["failed", "#d55e00"], ["of unknown kind", "#999999"]];
const CIVIDIS = ["#35456c", "#4f576c", "#666970", "#7d7c78", "#948e77", "#b0a473", "#c8b866", "#e4cf5b", "#fee838"].map(rgb);
const state = { segment: 0, process: null, by: "process", only: null };

function rgb(hex) { return [1, 3, 5].map(i => parseInt(hex.slice(i, i + 2), 16)); }

// ---- words

const number = n => n.toLocaleString("en");
const count = (n, word) => `${number(n)} ${word}${n === 1 ? "" : /(s|ch)$/.test(word) ? "es" : "s"}`;
function bytes(n) {
  if (n === null || n === undefined) return "not known";
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
  let unit = 0;
  while (n >= 1024 && unit < 6) { n /= 1024; unit++; }
  return `${Number.isInteger(n) || n >= 100 ? Math.round(n) : n.toFixed(n >= 10 ? 1 : 2)} ${units[unit]}`;
}
const pages = n => n === null ? "not known" : `${count(n, "page")} (${bytes(n * D.page_size)})`;
function seconds(s) {
  if (s === null) return "not known";
  const size = Math.abs(s);
  if (size === 0) return "0 s";
  if (size < 1e-3) return `${+(s * 1e6).toPrecision(3)} µs`;
  if (size < 1) return `${+(s * 1e3).toPrecision(3)} ms`;
  return size < 100 ? `${+s.toPrecision(3)} s` : `${number(Math.round(s))} s`;
}
const at = s => s < 0 ? "before the trace" : seconds(s);
function part(i, n, start = 0, length = D.seconds) { // with as many digits as tell the parts from each other
  const from = start + i * length / n, to = start + (i + 1) * length / n;
  const [unit, name] = [[1, "s"], [1e-3, "ms"], [1e-6, "µs"], [1e-9, "ns"]].find(([unit]) => Math.abs(to) >= unit) || [1, "s"];
  const digits = Math.max(0, Math.min(9, 1 - Math.floor(Math.log10(length / n / unit))));
  return `${(from / unit).toFixed(digits)} to ${(to / unit).toFixed(digits)} ${name}`;
}
const person = i => i < 0 ? "other processes" : D.processes[i].name;

// ---- elements

function h(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter(child => child !== null && child !== undefined && child !== false));
  return element;
}
function section(id, title, source, ...children) {
  return h("section", { id, "aria-labelledby": `${id}-title` },
    h("div", { class: "title" }, h("h2", { id: `${id}-title` }, title), source && h("p", { class: "source" }, source)),
    children);
}
function facts(list) {
  return h("dl", { class: "facts" }, list.map(([label, text]) => [h("dt", {}, label), h("dd", {}, text)]));
}
function swatch(color) {
  const element = h("i", { class: "swatch" });
  element.style.background = color;
  return element;
}
const legend = items => h("ul", { class: "legend" }, items.map(([text, color]) => h("li", {}, swatch(color), text)));
function figures(items) {
  return items.filter(Boolean).map(([value, what, style]) => h("span", { class: style || null }, h("b", {}, value), ` ${what}`));
}

// ---- colours

const css = name => getComputedStyle(root).getPropertyValue(name).trim();
const mix = (a, b, part) => a.map((value, i) => Math.round(value + (b[i] - value) * part));
const hex = color => "#" + color.map(value => value.toString(16).padStart(2, "0")).join("");
const ranks = new Map(D.processes.map((_, i) => i).sort((a, b) => D.processes[b].faults - D.processes[a].faults)
  .map((process, rank) => [process, rank]));
const dark = matchMedia("screen and (prefers-color-scheme: dark)"), paper = matchMedia("print");
function ofProcess(i) { // after the first round the same hues come again, always farther from the ground
  if (i < 0) return "#999999";
  const rank = ranks.get(i), far = [0, .28, .5][Math.floor(rank / HUES.length) % 3];
  return hex(mix(rgb(HUES[rank % HUES.length]), dark.matches ? [255, 255, 255] : [0, 0, 0], far));
}
function shade(ground, process, n, most) {
  if (state.only !== null && state.only !== process) return mix(ground, rgb(css("--dim")), .15);
  return mix(ground, rgb(state.only === process ? css("--accent") : ofProcess(process)), strength(n, most));
}
const large = D.segments.map((one, i) => [i, (one.level || one.touched || []).reduce((a, b) => Math.max(a, b), 0)]).filter(([, most]) => most)
  .sort((a, b) => b[1] - a[1]).map(([i]) => i); // those that are seen in the picture of memory
const ofSegment = i => HUES[large.indexOf(i)] || "#999999";
function ramp(share) { // more is what stands out from the ground
  const place = (dark.matches ? share : 1 - share) * (CIVIDIS.length - 1), low = Math.min(CIVIDIS.length - 2, Math.floor(place));
  return mix(CIVIDIS[low], CIVIDIS[low + 1], place - low);
}
const scale = (least, most) => [h("span", {}, least), h("i", { class: "ramp" }), h("span", {}, most)];

// ---- charts: a canvas of columns × rows of cells, which pointer and arrow keys go through

const charts = new Set();
const observer = new ResizeObserver(entries => { for (const { target } of entries) target.redraw(); });
function chart({ label, columns, rows = 1, height, margin = [0, 0, 0, 0], draw, tell, act, focusable = true }) {
  const canvas = h("canvas", { role: "img", "aria-label": label + (focusable ? "; arrow keys go through it" : ""), tabindex: focusable ? 0 : null });
  const cursor = h("div", { class: "cursor", hidden: true });
  const box = h("div", { class: "chart" }, canvas, cursor);
  const [top, right, bottom, left] = margin;
  let cell = null, width = 0, tall = 0;
  const plot = () => ({ x: left, y: top, w: Math.max(1, width - left - right), h: Math.max(1, tall - top - bottom) });
  box.redraw = () => {
    width = box.clientWidth;
    if (!width) return;
    tall = typeof height === "function" ? height(width) : height;
    const ratio = window.devicePixelRatio || 1;
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(tall * ratio);
    canvas.style.height = `${tall}px`;
    const context = canvas.getContext("2d");
    context.scale(ratio, ratio);
    context.font = `11px ${css("--font")}`;
    context.imageSmoothingEnabled = false;
    draw(context, plot());
    if (cell) move(...cell, false);
  };
  function move(c, r, show = true) {
    cell = [Math.max(0, Math.min(columns - 1, c)), Math.max(0, Math.min(rows - 1, r))];
    const p = plot(), w = p.w / columns, t = p.h / rows;
    cursor.hidden = false;
    Object.assign(cursor.style, { left: `${p.x + cell[0] * w}px`, top: `${p.y + cell[1] * t}px`, width: `${Math.max(2, w)}px`, height: `${Math.max(2, t)}px` });
    if (!show) return;
    const place = box.getBoundingClientRect();
    say(tell(...cell), place.left + p.x + (cell[0] + .5) * w, place.top + p.y + (cell[1] + 1) * t);
  }
  function leave() { cell = null; cursor.hidden = true; say(null); }
  canvas.addEventListener("pointermove", event => {
    const p = plot();
    const c = Math.floor((event.offsetX - p.x) / p.w * columns), r = Math.floor((event.offsetY - p.y) / p.h * rows);
    if (c >= 0 && c < columns && r >= 0 && r < rows) move(c, r); else leave();
  });
  canvas.addEventListener("pointerleave", leave);
  canvas.addEventListener("blur", leave);
  if (act) {
    canvas.classList.add("active");
    canvas.addEventListener("click", () => { if (cell) act(...cell); });
  }
  canvas.addEventListener("keydown", event => {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (step) move(...(cell ? [cell[0] + step[0], cell[1] + step[1]] : [0, 0]));
    else if (event.key === "Enter" && act && cell) act(...cell);
    else if (event.key === "Escape") leave();
    else return;
    event.preventDefault();
  });
  charts.add(box);
  observer.observe(box);
  return box;
}
function say(lines, x, y) {
  tip.hidden = !lines;
  if (!lines) return;
  tip.replaceChildren(...lines.filter(Boolean).map((line, i) => h(i ? "p" : "b", {}, line)));
  const { width, height } = tip.getBoundingClientRect();
  const below = y + 12 + height < innerHeight;
  tip.style.left = `${Math.max(4, Math.min(innerWidth - width - 4, x - width / 2))}px`;
  tip.style.top = `${below ? y + 12 : Math.max(4, y - height - 24)}px`;
}
function redraw() {
  for (const one of charts) if (one.isConnected) one.redraw(); else { charts.delete(one); observer.unobserve(one); }
}
dark.addEventListener("change", redraw);
paper.addEventListener("change", redraw);

function nice(most, steps) {
  const rough = most / steps, power = 10 ** Math.floor(Math.log10(rough));
  return power * [1, 2, 5, 10].find(factor => factor * power >= rough);
}
function timeAxis(context, p, start = 0, length = D.seconds) {
  const step = nice(length, Math.max(2, p.w / 110));
  context.fillStyle = css("--dim");
  context.textAlign = "center";
  context.textBaseline = "top";
  for (let s = Math.ceil(start / step) * step; s <= start + length * 1.0001; s += step) {
    const x = p.x + (s - start) / length * p.w;
    context.fillRect(Math.round(x), p.y + p.h, 1, 3);
    const text = seconds(+s.toPrecision(6)), half = context.measureText(text).width / 2;
    if (x + half < p.x + p.w + 20) context.fillText(text, Math.max(half, x), p.y + p.h + 5);
  }
}
function valueAxis(context, p, most, text, step) {
  context.textAlign = "right";
  context.textBaseline = "middle";
  for (let value = 0; value <= most; value += step) {
    const y = p.y + p.h - value / most * p.h;
    context.fillStyle = css("--grid");
    context.fillRect(p.x, Math.round(y), p.w, 1);
    context.fillStyle = css("--dim");
    context.fillText(text(value), p.x - 6, y);
  }
}
function cross(context, x, y, size = 4) {
  context.strokeStyle = css("--surface");
  for (const width of [5, 2]) {
    context.lineWidth = width;
    context.beginPath();
    context.moveTo(x - size, y - size); context.lineTo(x + size, y + size);
    context.moveTo(x - size, y + size); context.lineTo(x + size, y - size);
    context.stroke();
    context.strokeStyle = css("--bad");
  }
}
function image(context, p, columns, rows, paint) {
  const small = document.createElement("canvas");
  small.width = columns;
  small.height = rows;
  const data = new ImageData(columns, rows);
  paint((cell, color) => { data.data.set(color, cell * 4); data.data[cell * 4 + 3] = 255; });
  small.getContext("2d").putImageData(data, 0, 0);
  context.drawImage(small, p.x, p.y, p.w, p.h);
}
const strength = (n, most) => .35 + .65 * (most > 1 ? Math.log(n) / Math.log(most) : 1);
const highest = values => values.reduce((a, b) => Math.max(a, b), 0);

// ---- the head

function head() {
  const used = D.peak !== null && D.limit ? D.peak / D.limit : null;
  const bar = h("div", { class: "bar" }, h("i"));
  if (used !== null) bar.firstChild.style.width = `${Math.min(100, 100 * used)}%`;
  const hide = new Set(["ran", "end", "faults"]);
  document.getElementById("head").append(h("div", {},
    h("p", { class: "brand" }, "shmfs report"),
    h("h1", {}, D.title),
    h("div", { class: "tiles" },
      tile(D.outcome, `${D.outcome === "recorded" ? "for" : "after"} ${seconds(D.duration ?? D.seconds)}`, D.bad ? "bad" : "good"),
      tile(D.peak === null ? "not known" : bytes(D.peak),
        used === null ? (D.limit ? `peak; the limit is ${bytes(D.limit)}` : "peak; no limit") : `peak, ${Math.round(100 * used)} % of ${bytes(D.limit)}`,
        used >= .9 ? "bad" : null, used === null ? null : bar),
      tile(D.perf ? number(D.faults) : "not seen", `${D.faults === 1 ? "fault" : "faults"}${D.perf ? `: ${number(D.minor)} minor, ${number(D.major)} major` : " of pages"}`),
      tile(D.perf ? number(D.failed) : "not seen", `failed (SIGBUS)`, D.failed ? "bad" : null),
      tile(number(D.number_of_segments), D.number_of_segments === 1 ? "segment" : "segments"),
      tile(number(D.number_of_processes), D.number_of_processes === 1 ? "process" : "processes")),
    !D.perf && h("p", { class: "warning" }, h("b", {}, "perf"), " page faults were not seen, so nothing is known of who touched which page and when: the sources at the end say why"),
    D.warnings.map(([label, text]) => h("p", { class: "warning" }, h("b", {}, label), ` ${text}`)),
    facts(D.facts.filter(([label]) => !hide.has(label)))));
}
const tile = (value, what, style, more) => h("div", { class: `tile ${style || ""}` }, h("b", {}, value), h("span", {}, what), more);

function deaths() {
  if (!D.deaths.length && !D.refusals.length) return null;
  return section("deaths", "Deaths and refusals", "shmfs, mm, perf",
    D.deaths.map(death => h("p", { class: "death" }, h("b", {}, "SIGBUS "), death.text, " ",
      death.segment !== null && h("a", { href: `#segment-${death.segment}` }, "its pages"), " ",
      death.process !== null && h("a", { href: `#process-${death.process}` }, "its process"))),
    D.refusals.map(([label, text]) => h("p", { class: "death" }, h("b", {}, `${label} `), text)));
}

// ---- memory over time

function memory() {
  const known = D.level !== null;
  const layers = large.map(i => ({ i, name: D.segments[i].name, values: D.segments[i].level || D.segments[i].touched, color: ofSegment(i) }));
  if (!layers.length) return null;
  const own = layers.slice(0, HUES.length);
  const sum = k => own.reduce((total, layer) => total + layer.values[k], 0);
  const total = known ? D.level : Array.from({ length: D.bins }, (_, k) => layers.reduce((all, layer) => all + layer.values[k], 0));
  const rest = total.map((value, k) => Math.max(0, value - sum(k)));
  if (highest(rest)) own.push({ i: null, name: "other segments", values: rest, color: "#999999" });
  const most = highest(total.map((value, k) => Math.max(value, sum(k)))) * D.page_size;
  const limit = D.limit && D.limit < 3 * most ? D.limit : 0;
  const what = known ? "charged" : "touched so far";
  const draw = (context, p) => {
    const power = 1024 ** Math.floor(Math.log(Math.max(most, limit)) / Math.log(1024));
    const step = nice(Math.max(most, limit) / power, 4) * power, ceiling = Math.max(most, limit) * 1.06;
    valueAxis(context, p, ceiling, bytes, step);
    const x = k => p.x + k / D.bins * p.w, y = n => p.y + p.h - n * D.page_size / ceiling * p.h;
    const base = new Array(D.bins).fill(0);
    for (const layer of own) {
      context.fillStyle = layer.color;
      context.beginPath();
      context.moveTo(p.x, y(base[0]));
      for (let k = 0; k < D.bins; k++) { const high = y(base[k] + layer.values[k]); context.lineTo(x(k), high); context.lineTo(x(k + 1), high); }
      for (let k = D.bins - 1; k >= 0; k--) { context.lineTo(x(k + 1), y(base[k])); context.lineTo(x(k), y(base[k])); base[k] += layer.values[k]; }
      context.fill();
    }
    if (limit) {
      const line = p.y + p.h - limit / ceiling * p.h;
      context.strokeStyle = css("--bad");
      context.setLineDash([6, 4]);
      context.beginPath(); context.moveTo(p.x, line); context.lineTo(p.x + p.w, line); context.stroke();
      context.setLineDash([]);
      context.fillStyle = css("--bad");
      context.textAlign = "left";
      context.textBaseline = "bottom";
      context.fillText(`limit ${bytes(limit)}`, p.x + 4, line - 2);
    }
    for (const death of D.deaths) cross(context, p.x + Math.min(1, death.time / D.seconds) * p.w, p.y + 8);
    timeAxis(context, p);
  };
  const tell = k => [part(k, D.bins), `${bytes(total[k] * D.page_size)} ${what} in all`,
    ...own.filter(layer => layer.values[k]).map(layer => `${layer.name}: ${pages(layer.values[k])}`),
    ...D.deaths.filter(death => Math.floor(death.time / D.seconds * D.bins) === k).map(() => "SIGBUS")].slice(0, 12);
  const act = k => {
    const there = own.filter(layer => layer.i !== null).sort((a, b) => b.values[k] - a.values[k])[0];
    if (there && there.values[k]) location.hash = `segment-${there.i}`;
  };
  return section("memory", "Memory over time",
    known ? `pages charged: ${D.level_source}; the most in each of ${D.bins} parts of the time` : `distinct pages touched so far: ${D.fault_source}; what is charged is not seen here`,
    chart({ label: "Memory over time by segment", columns: D.bins, height: w => w < 500 ? 180 : 240, margin: [8, 18, 22, 64], draw, tell, act }),
    legend([...own.map(layer => [layer.name, layer.color]), ...(D.deaths.length ? [["× SIGBUS", css("--bad")]] : [])]));
}

// ---- segments

function lane(one, i) {
  const values = one.level || one.touched, most = values ? highest(values) : 0;
  const place = s => Math.max(0, Math.min(1, s / D.seconds));
  const marks = [[one.created, "created", "▸"], [one.unlinked, "unlinked", "▿"], [one.evicted, "gone", "▪"]].filter(([time]) => time !== null);
  const died = D.deaths.filter(death => death.segment === i);
  const draw = (context, p) => {
    const from = p.x + place(one.created ?? one.seen) * p.w, to = p.x + (one.evicted === null ? 1 : place(one.evicted)) * p.w;
    context.fillStyle = css("--grid");
    context.fillRect(from, p.y + p.h - 1, Math.max(1, to - from), 1);
    context.fillStyle = ofSegment(i);
    if (most) values.forEach((value, k) => {
      const tall = value / most * (p.h - 3), x = p.x + k / D.bins * p.w;
      if (value && x < to) context.fillRect(x, p.y + p.h - tall, p.w / D.bins + .5, tall);
    });
    context.fillStyle = css("--text");
    for (const [time, what] of marks) context.fillRect(Math.min(p.x + p.w - 2, p.x + place(time) * p.w), p.y + (what === "unlinked" ? p.h / 2 : 0), 2, what === "unlinked" ? p.h / 2 : p.h);
    for (const death of died) cross(context, p.x + place(death.time) * p.w, p.y + p.h / 2, 4);
  };
  const tell = k => [one.name, part(k, D.bins),
    values && `${pages(values[k])} ${one.level ? `charged (${D.level_source})` : `touched so far (${D.fault_source})`}`,
    ...marks.filter(([time]) => Math.floor(place(time) * (D.bins - 1e-6)) === k).map(([time, what]) => `${what} at ${at(time)}`),
    ...died.filter(death => Math.floor(place(death.time) * (D.bins - 1e-6)) === k).map(() => "SIGBUS")];
  return h("li", {}, h("button", { class: "lane", id: `lane-${i}`, onclick: () => { location.hash = `segment-${i}`; } },
    h("span", { class: "name" }, one.name),
    chart({ label: `${one.name} over time`, columns: D.bins, height: 30, draw, tell, focusable: false }),
    h("span", { class: "figures" }, figures([
      one.peak !== null ? [bytes(one.peak * D.page_size), "peak"] : one.size !== null && [bytes(one.size), "size"],
      D.perf && [number(one.pages), one.pages === 1 ? "page touched" : "pages touched"], one.shared && [number(one.shared), "shared"],
      D.perf && [number(one.faults), one.faults === 1 ? "fault" : "faults"], one.failed && [number(one.failed), "failed", "bad"],
      D.perf && [number(one.users.length + one.others), one.users.length + one.others === 1 ? "process" : "processes"]]))));
}
function segments() {
  if (!D.segments.length) return section("segments", "Segments", "", h("p", { class: "none" }, "No segment was seen."));
  return section("segments", "Segments", `${D.perf ? `pages touched, faults: ${D.fault_source}` : "faults were not seen"}${D.level ? ` · peak: ${D.peak_source}` : ""} · bars: ${D.level ? "pages charged" : "pages touched"}, each lane to its own peak`,
    h("p", { class: "hint" }, "Choose one to see its pages. Full strokes: created, gone; half strokes: unlinked", D.deaths.length ? "; ×: SIGBUS." : "."),
    h("ol", { class: "lanes" }, D.segments.map(lane)),
    D.rest.number > 0 && h("p", { class: "rest" }, `… and ${count(D.rest.number, "segment")} more: ${count(D.rest.faults, "fault")} on ${count(D.rest.pages, "page")}`),
    h("div", { id: "segment", tabindex: -1 }));
}

// ---- one segment

function expand(heat) {
  const cells = heat.columns * heat.rows, counts = new Uint32Array(cells), who = new Int16Array(cells).fill(-1), several = new Uint8Array(cells);
  let cell = 0;
  heat.steps.forEach((step, i) => { cell += step; counts[cell] = heat.counts[i]; who[cell] = heat.who[i]; several[cell] = heat.several[i]; });
  return { counts, who, several };
}
const rowPages = (heat, r) => {
  const first = r * heat.per_row, last = Math.min(heat.pages, first + heat.per_row) - 1;
  return first === last ? `page ${number(first)}` : `pages ${number(first)}–${number(last)}`;
};
function heatMap(one, i, heat) {
  const { counts, who, several } = expand(heat), most = highest(counts), crowd = highest(several);
  const died = D.deaths.filter(death => death.segment === i && death.page !== null && death.page < heat.per_row * heat.rows);
  const draw = (context, p) => {
    const ground = rgb(css("--ground"));
    image(context, p, heat.columns, heat.rows, set => {
      for (let cell = 0; cell < counts.length; cell++) {
        let color = ground;
        if (counts[cell]) {
          if (state.by === "touches") color = ramp(most > 1 ? Math.log(counts[cell]) / Math.log(most) : 1);
          else if (state.by === "processes") color = ramp(crowd > 1 ? (several[cell] - 1) / (crowd - 1) : 0);
          else color = shade(ground, heat.people[who[cell]], counts[cell], most);
        }
        set(cell, color);
      }
    });
    for (const death of died) cross(context, p.x + Math.max(0, Math.min(1, (death.time - heat.start) / heat.seconds)) * p.w, p.y + Math.min(1, (death.page + .5) / (heat.per_row * heat.rows)) * p.h);
    pageAxis(context, p, heat);
    timeAxis(context, p, heat.start, heat.seconds);
  };
  const tell = (c, r) => {
    const cell = r * heat.columns + c;
    return [rowPages(heat, r), part(c, heat.columns, heat.start, heat.seconds),
      counts[cell] ? `${count(counts[cell], "touch")}${several[cell] > 1 ? ` by ${several[cell]} processes, most` : ""} by ${person(heat.people[who[cell]])}` : "not touched then",
      counts[cell] ? D.fault_source : null];
  };
  const act = (c, r) => { const process = heat.people[who[r * heat.columns + c]]; if (process >= 0) location.hash = `process-${process}`; };
  return chart({ label: `Pages of ${one.name} over time, by process`, columns: heat.columns, rows: heat.rows, height: () => tallness(innerWidth, heat), margin: [4, 18, 22, 56], draw, tell, act });
}
const tallness = (w, heat) => Math.max(60, Math.min(heat.rows * 12, w < 600 ? 260 : 360)) + 26;
function pageAxis(context, p, heat) {
  context.fillStyle = css("--dim");
  context.textAlign = "right";
  context.textBaseline = "middle";
  const all = heat.per_row * heat.rows, step = Math.max(1, nice(all, Math.max(2, p.h / 50)));
  for (let page = 0; page < heat.pages; page += step) context.fillText(number(page), p.x - 5, p.y + 5 + page / all * p.h);
}
function below(context, p, text) {
  context.fillStyle = css("--dim");
  context.textAlign = "left";
  context.textBaseline = "top";
  context.fillText(text, p.x, p.y + p.h + 5);
}
function first(one, heat) {
  const draw = (context, p) => {
    image(context, p, 1, heat.rows, set => heat.first.forEach((k, r) => set(r, rgb(k < 0 ? css("--ground") : ofProcess(heat.people[k])))));
    below(context, p, "first");
  };
  const tell = (c, r) => [rowPages(heat, r), heat.first[r] < 0 ? "not touched" : `touched first by ${person(heat.people[heat.first[r]])}${heat.per_row > 1 ? " (most of them)" : ""}`, D.fault_source];
  const act = (c, r) => { const process = heat.people[heat.first[r]]; if (process >= 0) location.hash = `process-${process}`; };
  return chart({ label: `Who touched pages of ${one.name} first`, columns: 1, rows: heat.rows, height: () => tallness(innerWidth, heat), margin: [4, 0, 22, 0], draw, tell, act });
}
function strips(one, heat) {
  const columns = heat.people.length, most = highest(heat.strips.map(highest)), process = c => heat.people[c];
  const draw = (context, p) => {
    const ground = rgb(css("--ground"));
    image(context, p, columns, heat.rows, set => {
      for (let r = 0; r < heat.rows; r++) {
        heat.people.forEach((process, c) => set(r * columns + c, heat.strips[c][r] ? shade(ground, process, heat.strips[c][r], most) : ground));
      }
    });
    below(context, p, count(heat.people.length, "process"));
  };
  const tell = (c, r) => {
    const together = heat.strips.filter(strip => strip[r]).length;
    return [person(process(c)), rowPages(heat, r), process(c) < 0 ? `${count(heat.strips[c][r], "page")}, summed over them` : `touched ${count(heat.strips[c][r], "page")} of these`,
      `here ${together === 1 ? "is 1 process" : `are ${together} processes`}; ${D.fault_source}`];
  };
  const act = c => { if (process(c) >= 0) location.hash = `process-${process(c)}`; };
  return chart({ label: `Pages of ${one.name} by process`, columns, rows: heat.rows, height: () => tallness(innerWidth, heat), margin: [4, 0, 22, 0], draw, tell, act });
}
function sharing(one) {
  const by = Object.entries(one.sharing).map(([processes, n]) => [+processes, n]).sort((a, b) => a[0] - b[0]);
  const shown = by.slice(0, 7), more = by.slice(7);
  const rows = shown.map(([processes, n]) => [`by ${count(processes, "process")}`, n]);
  if (more.length) rows.push([`by ${more[0][0]} to ${more[more.length - 1][0]}`, more.reduce((all, [, n]) => all + n, 0)]);
  const most = highest(rows.map(([, n]) => n));
  return h("div", { class: "bars" }, h("h4", {}, "Pages by how many processes touched them"), rows.map(([text, n]) => {
    const bar = h("i");
    bar.style.width = `${100 * n / most}%`;
    return h("p", {}, h("span", {}, text), h("span", { class: "bar" }, bar), h("b", {}, count(n, "page")));
  }));
}
function table(headings, rows) {
  return h("div", { class: "scroll", tabindex: rows.length > 12 ? 0 : null }, h("table", {}, h("thead", {}, h("tr", {}, headings.map(text => h("th", { scope: "col" }, text)))),
    h("tbody", {}, rows.map(row => h("tr", {}, row.map((cell, i) => h(i ? "td" : "th", { scope: i ? null : "row" }, cell)))))));
}
const link = i => h("a", { href: `#process-${i}` }, swatch(ofProcess(i)), D.processes[i].name);
function life(one) {
  const ends = { gone: "gone", linked: "left with its name", held: "without a name, but still open or mapped", unknown: "not known" };
  return facts([
    ["size", one.size === null ? "not known" : `${bytes(one.size)}${one.peak === null ? "" : `; at most ${pages(one.peak)} charged (${D.peak_source})`}`],
    ["touched", !D.perf ? "not seen" : `${pages(one.pages)}, ${number(one.shared)} of them by several processes (${D.fault_source})`],
    ["faults", !D.perf ? "not seen" : `${number(one.faults)}: ${number(one.minor)} minor, ${number(one.major)} major, ${number(one.failed)} failed${one.around ? `; ${number(one.around)} pages mapped around them` : ""}`],
    one.refused ? ["refused", count(one.refused, "charge")] : null,
    ["created", one.created === null ? `not seen; first seen at ${at(one.seen)}` : `${at(one.created)}${one.created_by ? ` by ${one.created_by}` : ""}`],
    ["unlinked", one.unlinked === null ? "not seen" : `${at(one.unlinked)}${one.unlinked_by ? ` by ${one.unlinked_by}` : ""}`],
    ["end", ends[one.end] + (one.evicted !== null ? ` at ${at(one.evicted)}` : one.end !== "gone" && one.resident ? `, ${bytes(one.resident * D.page_size)} charged` : "")],
  ].filter(Boolean));
}
function segment(i) {
  const one = D.segments[i], heat = one.heat;
  const choice = ["process", "touches", "processes"].map(by => h("label", {}, h("input", { type: "radio", name: "by", value: by, checked: state.by === by, onchange: () => { state.by = by; redraw(); } }),
    { process: "process (of most touches)", touches: "number of touches", processes: "number of processes" }[by],
    heat && by !== "process" && h("span", { class: "scale" }, scale("1", number(highest(by === "touches" ? heat.counts : heat.several))))));
  const chips = heat && h("ul", { class: "chips" }, heat.people.map(process => h("li", {}, h("button", { "aria-pressed": String(state.only === process), onclick: event => {
    state.only = state.only === process ? null : process;
    state.by = "process";
    for (const chip of document.querySelectorAll(".chips button")) chip.setAttribute("aria-pressed", String(chip === event.currentTarget && state.only !== null));
    for (const input of document.querySelectorAll("input[name=by]")) input.checked = input.value === "process";
    redraw();
  } }, swatch(ofProcess(process)), person(process)))));
  document.getElementById("segment").replaceChildren(h("h3", {}, one.name), h("div", { class: "columns" }, life(one), Object.keys(one.sharing).length ? sharing(one) : ""),
    ...(heat ? [
      h("fieldset", {}, h("legend", {}, "Colour by"), choice),
      h("div", { class: "maps" },
        h("figure", {}, h("figcaption", {}, `Page (index in the file) × time: touches (faults and pages mapped around them); ${heat.rows} rows of ${count(heat.per_row, "page")}, ${heat.columns} parts of ${seconds(heat.seconds / heat.columns)}, from the first touch to the last`), heatMap(one, i, heat)),
        h("figure", {}, h("figcaption", {}, "Page × process, and who touched it first: distinct pages"), h("div", { class: "strips" }, first(one, heat), strips(one, heat)))),
      chips,
      heat.people.length > HUES.length ? h("p", { class: "hint" }, `Colours repeat in other shades after ${HUES.length} processes: choose one to see it alone.`) : "",
    ] : [h("p", { class: "none" }, one.pages ? "There are heat maps of the segments with most faults only." : "No page fault was seen on it.")]),
    one.users.length ? table(["Process", "Faults", "Minor", "Major", "Failed", "Mapped around", "Pages touched", "PSS, sampled", "USS, sampled"], one.users.map(use => [link(use.process),
      number(use.faults), number(use.minor), number(use.major), number(use.failed), number(use.around), number(use.pages), use.pss === null ? "–" : bytes(use.pss), use.uss === null ? "–" : bytes(use.uss)])) : "",
    one.others ? h("p", { class: "rest" }, `… and ${count(one.others, "process")} more`) : "");
  for (const lane of document.querySelectorAll(".lane")) lane.setAttribute("aria-pressed", String(lane.id === `lane-${i}`));
}

// ---- sharing, faults, processes

function matrix() {
  if (!D.matrix || D.matrix.people.length < 2) return null;
  const { people, counts } = D.matrix, n = people.length;
  const most = highest(counts.map((row, i) => highest(row.filter((_, k) => k !== i))));
  const draw = (context, p) => {
    const ground = rgb(css("--ground")), grid = rgb(css("--grid"));
    image(context, p, n, n, set => counts.forEach((row, r) => row.forEach((value, c) => set(r * n + c, r === c ? grid : value ? ramp(most > 1 ? Math.log(value) / Math.log(most) : 1) : ground))));
    if (p.h / n < 9) return;
    if (p.h / n < 12) context.font = `9px ${css("--font")}`;
    context.fillStyle = css("--text");
    context.textAlign = "right";
    context.textBaseline = "middle";
    people.forEach((process, r) => {
      let text = D.processes[process].name;
      while (context.measureText(text).width > p.x - 8 && text.length > 3) text = text.slice(0, -2) + "…";
      context.fillText(text, p.x - 6, p.y + (r + .5) * p.h / n);
    });
  };
  const tell = (c, r) => [c === r ? person(people[r]) : `${person(people[r])} and ${person(people[c])}`, `${pages(counts[r][c])} ${c === r ? "touched" : "that both touched, at any time"}`, D.fault_source];
  const box = chart({ label: "Pages shared by each two processes", columns: n, rows: n, height: w => w - 130, margin: [4, 4, 4, 134], draw, tell, act: (c, r) => { location.hash = `process-${people[r]}`; } });
  box.style.maxWidth = `${134 + Math.min(600, 44 * n)}px`;
  return section("sharing", "Sharing", `pages that both of two processes touched, or had mapped around a fault, at any time: ${D.fault_source}`, box,
    h("p", { class: "scale" }, scale("1 page", count(most, "page")), h("span", {}, "(logarithmic; the diagonal, each process with itself, is grey)")));
}
function faults() {
  if (!D.faults) return null;
  const total = D.kinds[0].map((_, k) => D.kinds.reduce((all, row) => all + row[k], 0)), most = highest(total);
  const order = [FAILED, MAJOR, MINOR, UNKNOWN];
  const draw = (context, p) => {
    const ceiling = most * 1.06;
    valueAxis(context, p, ceiling, n => number(n), Math.max(1, nice(most, 4)));
    for (let k = 0; k < D.bins; k++) {
      let y = p.y + p.h;
      for (const kind of order) {
        const tall = D.kinds[kind][k] ? Math.max(kind === FAILED ? 3 : 1, D.kinds[kind][k] / ceiling * p.h) : 0;
        context.fillStyle = KINDS[kind][1];
        context.fillRect(p.x + k / D.bins * p.w, y -= tall, Math.max(1, p.w / D.bins - .5), tall);
      }
    }
    timeAxis(context, p);
  };
  const tell = k => [part(k, D.bins), `${count(total[k], "fault")} (${number(Math.round(total[k] / (D.seconds / D.bins)))} a second)`, ...order.filter(kind => D.kinds[kind][k]).map(kind => `${number(D.kinds[kind][k])} ${KINDS[kind][0]}`), D.fault_source];
  return section("faults", "Faults over time", `faults in each ${seconds(D.seconds / D.bins)}: ${D.fault_source}`,
    chart({ label: "Faults over time", columns: D.bins, height: 170, margin: [8, 18, 22, 64], draw, tell }),
    legend(KINDS.map(([name, color], kind) => [`${name}: ${number(D.kinds[kind].reduce((a, b) => a + b, 0))}`, color]).filter((_, kind) => kind < UNKNOWN || highest(D.kinds[UNKNOWN]))));
}
function processes() {
  if (!D.processes.length) return section("processes", "Processes", "", h("p", { class: "none" }, "No process was seen."));
  return section("processes", "Processes", `lives, parents: perf · faults, pages: ${D.fault_source}`,
    h("ol", { class: "tree", tabindex: D.processes.length > 20 ? 0 : null }, D.processes.map((one, i) => {
      const bar = h("i"), from = Math.max(0, Math.min(1, (one.start ?? 0) / D.seconds)), to = one.end === null ? 1 : Math.max(from, Math.min(1, one.end / D.seconds));
      Object.assign(bar.style, { left: `${100 * from}%`, width: `max(2px, ${100 * (to - from)}%)`, background: ofProcess(i) });
      const name = h("span", { class: "name" }, one.name);
      name.style.paddingLeft = `${Math.min(8, one.depth)}em`;
      const lines = [one.name, `${one.start === null ? "start not known" : `from ${at(one.start)}`} ${one.end === null ? "· end not seen" : `to ${at(one.end)}`}`, one.outcome, `${count(one.faults, "fault")} on ${count(one.pages, "page")}; ${D.fault_source}`];
      const show = event => { const place = event.currentTarget.getBoundingClientRect(); say(lines, event.clientX || place.left + 80, place.bottom - 8); };
      return h("li", {}, h("button", { id: `row-${i}`, onclick: () => { location.hash = `process-${i}`; }, onpointermove: show, onpointerleave: () => say(null), onfocus: event => { if (event.currentTarget.matches(":focus-visible")) show(event); }, onblur: () => say(null) },
        name, h("span", { class: "track" }, bar), h("span", { class: "figures" }, figures([[number(one.faults), one.faults === 1 ? "fault" : "faults"], one.failed && [number(one.failed), "failed", "bad"], one.outcome && ["", one.outcome, one.bad ? "bad" : null]]))));
    })),
    D.rest_of_processes.number > 0 && h("p", { class: "rest" }, `… and ${count(D.rest_of_processes.number, "process")} more: ${count(D.rest_of_processes.faults, "fault")}`),
    h("div", { id: "process", tabindex: -1 }));
}
function process(i) {
  const one = D.processes[i], used = [];
  D.segments.forEach((segment, k) => { const use = segment.users.find(user => user.process === i); if (use) used.push([k, use]); });
  const children = D.processes.map((_, k) => k).filter(k => D.processes[k].parent === i);
  document.getElementById("process").replaceChildren(h("h3", {}, swatch(ofProcess(i)), one.name),
    facts([["lived", `${one.start === null ? "start not known" : `from ${at(one.start)}`}${one.end === null ? ", end not seen" : ` to ${at(one.end)}`}${one.outcome ? `, ${one.outcome}` : ""} (perf)`],
      ["parent", one.parent === null ? "not seen" : link(one.parent)],
      ["children", children.length ? h("span", { class: "several" }, children.slice(0, 12).map(link), children.length > 12 && ` and ${number(children.length - 12)} more`) : "none seen"],
      ["faults", `${number(one.faults)}, ${number(one.major)} major, ${number(one.failed)} failed; on ${pages(one.pages)} (${D.fault_source})`]]),
    used.length ? table(["Segment", "Faults", "Minor", "Major", "Failed", "Pages touched"], used.map(([k, use]) => [
      h("a", { href: `#segment-${k}` }, D.segments[k].name), number(use.faults), number(use.minor), number(use.major), number(use.failed), number(use.pages)])) : h("p", { class: "none" }, "It used none of the segments that are shown."),
    one.others ? h("p", { class: "rest" }, `… and ${count(one.others, "segment")} more`) : "");
  for (const row of document.querySelectorAll(".tree button")) row.setAttribute("aria-pressed", String(row.id === `row-${i}`));
}

// ---- the rest, and what is chosen

function lives() {
  const rows = D.segments.filter(one => one.end !== "unknown" || one.created !== null);
  if (!rows.length && !D.lives.length) return null;
  const ends = { gone: "gone", linked: "left: still linked", held: "held: unlinked, still open or mapped", unknown: "not known" };
  return section("lives", "Lives and leaks", "who created, unlinked, freed: fuse, exact",
    D.lives.map(([label, text]) => h("p", { class: "warning" }, h("b", {}, label), ` ${text}`)),
    table(["Segment", "Created", "By", "Unlinked", "By", "End"], rows.map(one => [h("a", { href: `#segment-${D.segments.indexOf(one)}` }, one.name),
      one.created === null ? "–" : at(one.created), one.created_by || "–", one.unlinked === null ? "–" : at(one.unlinked), one.unlinked_by || "–",
      h("span", { class: ["linked", "held"].includes(one.end) ? "bad" : "" }, ends[one.end] + (one.evicted !== null ? ` at ${at(one.evicted)}` : ""))])));
}
function choose(scroll) {
  const [, kind, index] = location.hash.match(/^#(segment|process)-(\d+)$/) || [];
  const i = Number(index), place = kind && document.getElementById(kind);
  if (!place || i >= (kind === "segment" ? D.segments : D.processes).length) return;
  say(null);
  state[kind] = i;
  state.only = null;
  (kind === "segment" ? segment : process)(i);
  if (scroll) { place.scrollIntoView({ block: "start" }); place.focus({ preventScroll: true }); }
}

head();
const sizing = D.sizing.length && section("sizing", "The size it needed", "", facts(D.sizing));
main.replaceChildren(...[deaths(), memory(), segments(), matrix(), faults(), processes(), lives(), sizing,
  section("sources", "Sources and losses", "where the figures come from", facts(D.sources), D.warnings.length ? "" : h("p", { class: "hint" }, "No loss was reported."),
    h("ul", { class: "notes" }, D.notes.map(text => h("li", {}, text))))].filter(Boolean));
if (D.segments.length) segment(0);
addEventListener("hashchange", () => choose(true));
choose(true);
})();
