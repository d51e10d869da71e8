// The report page's charts, table and drawings. Plain functions on the page's own data; nothing is fetched.
"use strict";
const D = JSON.parse(document.getElementById("data").textContent);
const byId = new Map(D.rows.map(row => [row.id, row]));
const NS = document.getElementById("ns").namespaceURI;
const hue = family => D.hues[family] ?? 320;
const pct = (v, digits = 2) => v == null ? "–" : (100 * v).toFixed(digits) + " %";
const count = v => v == null ? "–" : v.toLocaleString("en-US");
const brief = v => v >= 1e6 ? +(v / 1e6).toPrecision(3) + "M" : v >= 1e3 ? +(v / 1e3).toPrecision(3) + "k" : String(+v.toPrecision(3));

function el(name, attributes, parent, text) {
  const node = document.createElementNS(NS, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text != null) node.textContent = text;
  parent?.append(node);
  return node;
}

// ---- scales
function linearTicks(low, high, most) {
  const raw = (high - low) / most, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map(m => m * power).find(s => s >= raw);
  const ticks = [];
  for (let t = Math.ceil(low / step - 1e-9) * step; t <= high + step * 1e-6; t += step) ticks.push(+t.toPrecision(12));
  return ticks;
}
function costScale(values, from, to, limit) {
  let low = Math.min(...values), high = Math.max(...values);
  if (limit && limit >= low && limit <= high * 1.6) high = Math.max(high, limit);
  if (low === high) { low *= 0.8; high *= 1.2; }
  if (high / low < 6) {
    const pad = (high - low) * 0.06;
    low = Math.max(0, low - pad); high += pad;
    return { at: v => from + (v - low) / (high - low) * (to - from), ticks: linearTicks(low, high, (to - from) / 90), low, high };
  }
  low /= 1.15; high *= 1.15;
  const ticks = [];
  for (let e = Math.floor(Math.log10(low)); e <= Math.log10(high); e++)
    for (const m of [1, 2, 5]) { const t = m * 10 ** e; if (t >= low && t <= high) ticks.push(t); }
  const span = Math.log(high / low);
  return { at: v => from + Math.log(v / low) / span * (to - from), ticks: ticks.length > (to - from) / 50 ? ticks.filter(t => /^1/.test(String(t)) || /^5/.test(String(t))) : ticks, low, high };
}
function accuracyScale(values, from, to) {
  let low = Math.min(...values), high = Math.max(...values);
  const pad = Math.max((high - low) * 0.08, 0.002);
  low = Math.max(0, low - pad); high = Math.min(1, high + pad);
  if (high - low < 1e-9) low = Math.max(0, high - 0.01);
  const ticks = linearTicks(low, high, Math.abs(to - from) / 46);
  const exact = d => ticks.every(t => Math.abs(100 * t - +(100 * t).toFixed(d)) < 1e-6);
  const digits = [0, 1, 2].find(exact) ?? 3;
  return { at: v => from + (v - low) / (high - low) * (to - from), ticks, label: t => pct(t, digits) };
}
// Accuracy drawn by its error on a log scale: what happens between 98 % and 99 % shows as well as what happens below.
function errorScale(values, from, to) {
  const errors = values.map(v => Math.max(1 - v, 5e-4));
  const most = Math.max(...errors) * 1.05, least = Math.min(...errors) / 1.15;
  const at = v => from + Math.log(most / Math.max(1 - v, 5e-4)) / Math.log(most / least) * (to - from);
  const all = [0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999];
  const ticks = [];
  for (const t of all.filter(t => 1 - t <= most && 1 - t >= least))
    if (!ticks.length || Math.abs(at(t) - at(ticks.at(-1))) > 20) ticks.push(t);
  return { at, ticks, label: t => +(100 * t).toFixed(1) + " %" };
}

// ---- the tip, and picking the nearest thing
const tip = document.getElementById("tip");
function showTip(chart, x, y, lines) {
  tip.replaceChildren(...lines.flatMap((line, i) => { const n = document.createElement(i ? "span" : "b"); n.textContent = line; return i < lines.length - 1 ? [n, document.createElement("br")] : [n]; }));
  const box = chart.getBoundingClientRect();
  const px = box.left + scrollX + x, py = box.top + scrollY + y;
  const right = px + tip.offsetWidth + 22 > scrollX + document.documentElement.clientWidth;
  tip.style.left = Math.max(scrollX + 4, right ? px - tip.offsetWidth - 14 : px + 14) + "px";
  tip.style.top = py - tip.offsetHeight / 2 + "px";
  tip.style.opacity = 1;
}
const hideTip = () => { tip.style.opacity = 0; };
function about(row) {
  if (row.lines) return row.lines;  // a page that words them itself
  const lines = [`${pct(row.accuracy)}  ·  candidate ${row.id}`, `${row.family || "–"}, ${count(row.params)} parameters`, `${count(row.macs)} MACs`];
  if (row.latency != null) lines.push(`${D.latency ?? "latency"} ${row.latency.toFixed(2)} ms`);
  lines.push(row.state === "stopped" ? `stopped after epoch ${row.epochs}` : `${row.epochs} epochs${row.front ? ", on the front" : ""}`);
  return lines;
}
function pickable(chart, places, radius, picked) {
  const find = event => {
    const box = chart.getBoundingClientRect(), x = event.clientX - box.left, y = event.clientY - box.top;
    let best = null, least = radius * radius;
    for (const place of places) {
      const d = (place.x - x) ** 2 + (place.y - y) ** 2;
      if (d < least) { least = d; best = place; }
    }
    picked(best);
    if (best) showTip(chart, best.x, best.y, best.lines); else hideTip();
  };
  chart.onpointermove = find;
  chart.onpointerdown = find;
  chart.onpointerleave = () => { picked(null); hideTip(); };
}

// ---- frame shared by the charts
function frame(chart, height, margin) {
  const width = chart.clientWidth;
  chart.querySelector("svg")?.remove();
  const svg = el("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-label": chart.dataset.label });
  chart.prepend(svg);
  return { svg, left: margin.left, right: width - margin.right, top: margin.top, bottom: height - margin.bottom };
}
function axes(f, xs, ys, xLabel, xTick) {
  for (const t of ys.ticks) {
    el("line", { class: "grid", x1: f.left, x2: f.right, y1: ys.at(t), y2: ys.at(t) }, f.svg);
    el("text", { x: f.left - 8, y: ys.at(t) + 4, "text-anchor": "end" }, f.svg, ys.label(t));
  }
  const foot = f.foot ?? f.bottom;
  for (const t of xs.ticks) {
    el("line", { class: "axis", x1: xs.at(t), x2: xs.at(t), y1: foot, y2: foot + 5 }, f.svg);
    el("text", { x: xs.at(t), y: foot + 18, "text-anchor": "middle" }, f.svg, xTick(t));
  }
  el("line", { class: "axis", x1: f.left, x2: f.right, y1: foot, y2: foot }, f.svg);
  el("text", { class: "title", x: f.right, y: foot + 36, "text-anchor": "end" }, f.svg, xLabel);
}

// ---- accuracy against cost
let cost = D.cost;
const costNames = { params: "parameters", macs: "multiply-adds (MACs)", latency: `${D.latency ?? "latency"}, ms` };
function drawFront() {
  const chart = document.getElementById("front");
  if (!chart) return;
  const complete = D.rows.filter(r => r.state === "complete" && r.accuracy != null && r[cost] > 0);
  const early = D.rows.filter(r => r.state === "stopped" && r.accuracy != null && r[cost] > 0);
  if (!complete.length && !early.length) return;
  const lane = early.length ? 52 : 0;
  const f = frame(chart, Math.max(340, Math.min(440, chart.clientWidth * 0.46)) + lane, { left: 58, right: 14, top: 14, bottom: 46 + lane });
  f.foot = f.bottom + lane;
  const rungs = (D.rungs ?? []).filter(r => r[cost]).sort((a, b) => a[cost] - b[cost]);
  const xs = costScale([...complete, ...early].map(r => r[cost]), f.left + 8, f.right - 8, D.budget[cost] ?? rungs.at(-1)?.[cost]);
  const ys = accuracyScale((complete.length ? complete : early).flatMap(r => [r.accuracy - (r.std ?? 0), r.accuracy, Math.min(r.accuracy + (r.std ?? 0), 1)]), f.bottom, f.top);
  axes(f, xs, ys, costNames[cost], brief);
  if (lane) {
    el("rect", { class: "lane", x: f.left, y: f.bottom + 10, width: f.right - f.left, height: lane - 10 }, f.svg);
    el("text", { x: f.left - 8, y: f.bottom + 35, "text-anchor": "end" }, f.svg, "stopped");
  }
  const limit = D.budget[cost];
  if (limit && limit <= xs.high && limit >= xs.low) {
    el("line", { class: "limit", x1: xs.at(limit), x2: xs.at(limit), y1: f.top, y2: f.foot }, f.svg);
    el("text", { class: "limit-text", x: xs.at(limit) - 6, y: f.top + 10, "text-anchor": "end" }, f.svg, "budget");
  }
  let labelled = f.left;
  for (const rung of rungs.filter(r => r[cost] >= xs.low && r[cost] <= xs.high)) {
    const x = xs.at(rung[cost]);
    el("line", { class: "rung", x1: x, x2: x, y1: f.top, y2: f.foot }, f.svg);
    if (x - labelled < 40) continue;
    el("text", { class: "rung-text", x: x - 5, y: f.top + 10, "text-anchor": "end" }, f.svg, "≤ " + brief(rung[cost]));
    labelled = x;
  }
  const front = complete.filter(r => r.front).sort((a, b) => a[cost] - b[cost]);
  const best = paretoOf(complete);
  const line = best.map((r, i) => `${i ? `H${xs.at(r[cost])}V` : `M${xs.at(r[cost])} `}${ys.at(r.accuracy)}`).join("");
  if (best.length) el("path", { class: "front", d: `${line}H${f.right}` }, f.svg);
  const places = [];
  const longest = Math.max(1, ...early.map(r => r.epochs));
  for (const r of early) {
    const x = xs.at(r[cost]), y = f.bottom + lane - 9 - (r.epochs / longest) * (lane - 28);
    el("path", { class: "early", style: `--h:${hue(r.family)}`, d: `M${x} ${y - 4.5}l4.5 4.5l-4.5 4.5l-4.5 -4.5z` }, f.svg);
    places.push({ x, y, row: r, lines: about(r) });
  }
  for (const r of complete.filter(r => !r.front).concat(front)) {
    const x = xs.at(r[cost]), y = ys.at(r.accuracy);
    if (r.std) el("line", { class: "spread", style: `--h:${hue(r.family)}`, x1: x, x2: x, y1: ys.at(r.accuracy - r.std), y2: ys.at(Math.min(r.accuracy + r.std, 1)) }, f.svg);
    el("circle", { class: r.front ? "point on-front" : "point", style: `--h:${hue(r.family)}`, cx: x, cy: y, r: r.front ? 6.5 : 4.5 }, f.svg);
    places.push({ x, y, row: r, lines: about(r) });
  }
  const ring = el("circle", { class: "ring", r: 10, visibility: "hidden" }, f.svg);
  frontPlaces = new Map(places.map(p => [p.row.id, p]));
  markFront = id => {
    const p = frontPlaces.get(id);
    ring.setAttribute("visibility", p ? "visible" : "hidden");
    if (p) { ring.setAttribute("cx", p.x); ring.setAttribute("cy", p.y); }
  };
  pickable(chart, places, 34, p => { markFront(p?.row.id); markCurve(p?.row.id); });
}
// The stairs are of the cost on the axis; the study's own front (large points) may weigh another.
function paretoOf(rows) {
  const longest = Math.max(...rows.map(r => r.epochs));
  let best = -1;
  return rows.filter(r => r.epochs === longest).sort((a, b) => a[cost] - b[cost] || b.accuracy - a.accuracy).filter(r => r.accuracy > best && (best = r.accuracy, true));
}
let frontPlaces = new Map(), markFront = () => {}, markCurve = () => {};

// ---- learning curves
function drawCurves() {
  const chart = document.getElementById("curves");
  if (!chart) return;
  const rows = D.rows.filter(r => r.curve && r.curve.some(v => v != null));
  if (!rows.length) return;
  const f = frame(chart, 320, { left: 56, right: 12, top: 12, bottom: 46 });
  const longest = Math.max(2, ...rows.map(r => r.curve.length));
  const xs = { at: e => f.left + 6 + (e - 1) / (longest - 1) * (f.right - f.left - 12), ticks: linearTicks(1, longest, Math.min(8, longest - 1)).filter(Number.isInteger) };
  if (!xs.ticks.includes(1)) xs.ticks.unshift(1);
  const values = rows.flatMap(r => r.curve.filter(v => v != null));
  const ys = (Math.max(...values) > 0.9 ? errorScale : accuracyScale)(values, f.bottom, f.top);
  axes(f, xs, ys, "epoch", String);
  const places = [], paths = new Map();
  for (const r of rows.slice().sort((a, b) => a.front - b.front)) {
    const points = r.curve.map((v, i) => [i + 1, v]).filter(p => p[1] != null);
    const d = points.map((p, i) => `${i ? "L" : "M"}${xs.at(p[0]).toFixed(1)} ${ys.at(p[1]).toFixed(1)}`).join("");
    const kind = r.state === "stopped" ? " cut" : r.front ? " on-front" : "";
    paths.set(r.id, el("path", { class: "curve" + kind, style: `--h:${hue(r.family)}`, d }, f.svg));
    if (points.length === 1) el("circle", { class: "point", style: `--h:${hue(r.family)}`, cx: xs.at(points[0][0]), cy: ys.at(points[0][1]), r: 2.5 }, f.svg);
    for (const [e, v] of points) places.push({ x: xs.at(e), y: ys.at(v), row: r, lines: [`${pct(v)} after epoch ${e}`, `candidate ${r.id}, ${r.family}`, `${count(r.params)} parameters${r.state === "stopped" ? ", stopped" : ""}`] });
  }
  let now = null;
  markCurve = id => {
    if (now) now.classList.remove("picked");
    now = paths.get(id) ?? null;
    chart.classList.toggle("picking", !!now);
    if (now) { now.classList.add("picked"); now.parentNode.append(now); }
  };
  pickable(chart, places, 40, p => { markCurve(p?.row.id); markFront(p?.row.id); });
}

// ---- best so far
function drawBest() {
  const chart = document.getElementById("best");
  if (!chart || !D.best_so_far.length) return;
  const f = frame(chart, 320, { left: 58, right: 14, top: 12, bottom: 46 });
  const total = Math.max(D.trained, 2), steps = D.best_so_far;
  const order = D.rows.filter(r => r.state === "complete" || r.state === "stopped").sort((a, b) => a.id - b.id);
  const xs = { at: n => f.left + 6 + (n - 1) / (total - 1) * (f.right - f.left - 12), ticks: linearTicks(1, total, 6).filter(Number.isInteger) };
  if (!xs.ticks.includes(1) && !xs.ticks.includes(2)) xs.ticks.unshift(1);
  const shown = steps.map(s => s[1]);
  const ys = accuracyScale([Math.max(shown[0] - 0.25 * (1 - shown[0]), 0), ...shown], f.bottom, f.top);
  axes(f, xs, ys, "candidates trained", String);
  const places = [];
  if (!D.left_out) order.forEach((r, i) => {
    const y = ys.at(r.accuracy ?? 0);
    if (r.state !== "complete" || y > f.bottom || y < f.top) return;
    el("circle", { class: "point", style: `--h:${hue(r.family)};fill-opacity:.3;stroke:none`, cx: xs.at(i + 1), cy: y, r: 3.5 }, f.svg);
    places.push({ x: xs.at(i + 1), y, row: r, lines: about(r) });
  });
  const d = steps.map((s, i) => `${i ? `H${xs.at(s[0])}V` : `M${xs.at(s[0])} `}${ys.at(s[1])}`).join("");
  el("path", { class: "step", d: `${d}H${xs.at(total)}` }, f.svg);
  for (const [n, v, id] of steps) {
    const row = byId.get(id);
    el("circle", { class: "point on-front", style: `--h:${hue(row?.family)}`, cx: xs.at(n), cy: ys.at(v), r: 5.5 }, f.svg);
    places.push({ x: xs.at(n), y: ys.at(v), row, lines: row ? about(row) : [pct(v)] });
  }
  pickable(chart, places, 30, p => { markFront(p?.row?.id); markCurve(p?.row?.id); });
}

// ---- search against retrained accuracy
function drawAgreement() {
  const chart = document.getElementById("agreement");
  if (!chart || !D.agreement.length) return;
  const f = frame(chart, 320, { left: 58, right: 14, top: 24, bottom: 46 });
  const ys = accuracyScale(D.agreement.map(p => p.retrained), f.bottom, f.top);
  const horizontal = accuracyScale(D.agreement.map(p => p.search), f.left + 8, f.right - 8);
  axes(f, { at: horizontal.at, ticks: linearTicks(...[Math.min, Math.max].map(m => m(...D.agreement.map(p => p.search))), 5) }, ys, "accuracy in the search", t => pct(t, 1));
  el("text", { x: 4, y: 12 }, f.svg, "retrained accuracy");
  const places = D.agreement.map(p => {
    const x = horizontal.at(p.search), y = ys.at(p.retrained), row = byId.get(p.id), family = row?.family ?? p.family;
    if (p.state === "stopped") el("path", { class: "early", style: `--h:${hue(family)}`, d: `M${x} ${y - 5}l5 5l-5 5l-5 -5z` }, f.svg);
    else el("circle", { class: "point", style: `--h:${hue(family)}`, cx: x, cy: y, r: 5 }, f.svg);
    return { x, y, row, lines: [`candidate ${p.id}`, `search ${pct(p.search)}`, `retrained ${pct(p.retrained)}`] };
  });
  pickable(chart, places, 30, p => { markFront(p?.row?.id); markCurve(p?.row?.id); });
}

// ---- table
const COLUMNS = [
  ["id", "id", r => r.id, v => v, true],
  ["family", "family", r => r.family, v => v || "–"],
  ["accuracy", "validation", r => r.accuracy ?? -1, (v, r) => pct(r.accuracy), true],
  ["params", "parameters", r => r.params, count, true],
  ["macs", "MACs", r => r.macs, count, true],
  ["latency", "ms", r => r.latency ?? Infinity, (v, r) => r.latency == null ? "–" : r.latency.toFixed(2), true],
  ["epochs", "epochs", r => r.epochs, v => v, true],
  ["seconds", "seconds", r => r.seconds, v => v.toFixed(0), true],
  ["state", "state", r => r.state, (v, r) => r.front ? "complete, front" : v],
  ["hash", "hash", r => r.hash, v => v],
].filter(c => c[0] !== "latency" || D.rows.some(r => r.latency != null));
let sorting = ["accuracy", -1], all = false;
function drawTable() {
  const table = document.getElementById("table");
  if (!table) return;
  const [key, direction] = sorting, column = COLUMNS.find(c => c[0] === key);
  const rows = D.rows.slice().sort((a, b) => {
    const x = column[2](a), y = column[2](b);
    return direction * (x < y ? -1 : x > y ? 1 : 0) || a.id - b.id;
  });
  const head = table.tHead.rows[0];
  head.replaceChildren(...COLUMNS.map(c => {
    const th = document.createElement("th"), button = document.createElement("button");
    button.textContent = c[1];
    th.append(button);
    if (c[4]) th.className = "n";
    th.scope = "col";
    if (c[0] === key) th.setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
    button.onclick = () => { sorting = [c[0], key === c[0] ? -direction : c[0] === "accuracy" ? -1 : 1]; drawTable(); };
    return th;
  }));
  table.tBodies[0].replaceChildren(...rows.slice(0, all ? rows.length : 25).map(r => {
    const tr = document.createElement("tr");
    if (r.state !== "complete") tr.className = "dim";
    if (r.reason) tr.title = r.reason;
    for (const c of COLUMNS) {
      const td = document.createElement("td");
      td.textContent = c[3](c[2](r), r);
      if (c[4]) td.className = "n";
      if (c[0] === "hash") td.classList.add("hash");
      tr.append(td);
    }
    tr.onpointerenter = () => { markFront(r.id); markCurve(r.id); };
    tr.onpointerleave = () => { markFront(); markCurve(); };
    return tr;
  }));
  const more = document.getElementById("more");
  more.hidden = all || rows.length <= 25;
  more.textContent = `Show all ${rows.length}`;
  more.onclick = () => { all = true; drawTable(); };
}

// ---- the drawings: pick a block in the strip, trace the channel under the pointer
function pickBlocks() {
  const cards = [...document.querySelectorAll(".strip g[data-drawing]")];
  const figures = [...document.querySelectorAll("figure[data-block]")];
  const show = id => {
    figures.forEach(figure => { figure.hidden = figure.id !== id; });
    cards.forEach(card => card.setAttribute("aria-pressed", card.dataset.drawing === id));
  };
  for (const card of cards) {
    card.setAttribute("role", "button");
    card.onclick = () => show(card.dataset.drawing);
    card.onkeydown = event => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); show(card.dataset.drawing); } };
  }
  const first = figures.find(figure => figure.dataset.first) ?? figures[0];
  if (first) show(first.id);
}
function traceable(svg) {
  const w = JSON.parse(svg.dataset.wiring), group = svg.querySelector(".trace");
  const readout = svg.closest("figure")?.querySelector(".readout");
  const y = (column, c) => w.top + (c + 0.5) * w.h / w.w[column];
  // Paths from channel c of `column` to every channel of the columns in one direction; lines on the way are collected.
  const spread = (column, c, step, lines) => {
    let counts = new Map([[c, 1]]);
    const dots = [];
    for (let at = column; step > 0 ? at < w.l.length : at > 0; at += step) {
      const next = new Map();
      for (const [ins, outs] of w.l[step > 0 ? at : at - 1]) {
        const [here, there] = step > 0 ? [ins, outs] : [outs, ins];
        for (const a of here) if (counts.has(a)) for (const b of there) {
          next.set(b, (next.get(b) ?? 0) + counts.get(a));
          lines.push(step > 0 ? [at, a, b] : [at - 1, b, a]);
        }
      }
      counts = next;
      for (const b of counts.keys()) dots.push([at + step, b]);
    }
    return [counts, dots];
  };
  const say = (counts, total, side) => {
    const numbers = [...counts.values()], low = Math.min(...numbers), high = Math.max(...numbers);
    const each = low === high ? `${low} path${low > 1 ? "s" : ""} each` : `${low} to ${high} paths each`;
    return `${counts.size === total ? "all" : counts.size + " of"} ${total} ${side} channels, ${each}`;
  };
  const draw = (column, c) => {
    const lines = [], [ahead, dotsA] = spread(column, c, 1, lines), [behind, dotsB] = spread(column, c, -1, lines);
    const sizes = new Map();
    for (const [at] of lines) sizes.set(at, (sizes.get(at) ?? 0) + 1);
    const drawn = kept => lines.filter(kept).map(([at, a, b]) => `M${w.x[at]} ${y(at, a).toFixed(1)}L${w.x[at + 1]} ${y(at + 1, b).toFixed(1)}`).join("");
    group.replaceChildren();
    el("path", { class: "t f", d: drawn(([at]) => sizes.get(at) > w.many) }, group);
    el("path", { class: "t", d: drawn(([at]) => sizes.get(at) <= w.many) }, group);
    for (const [at, b] of [[column, c], ...dotsA, ...dotsB]) el("circle", { class: "r", cx: w.x[at], cy: y(at, b).toFixed(1), r: w.r }, group);
    if (!readout) return;
    const last = w.l.length;
    const parts = [];
    if (column < last) parts.push("reaches " + say(ahead, w.w[last], "output"));
    if (column > 0) parts.push("is reached from " + say(behind, w.w[0], "input"));
    readout.textContent = `Channel ${c + 1} ${column === 0 ? "of the input" : column === last ? "of the output" : `in column ${column + 1}`} ${parts.join("; it ")}.`;
  };
  const find = event => {
    const matrix = svg.getScreenCTM();
    if (!matrix) return;
    const p = new DOMPoint(event.clientX, event.clientY).matrixTransform(matrix.inverse());
    let column = 0;
    w.x.forEach((x, i) => { if (Math.abs(x - p.x) < Math.abs(w.x[column] - p.x)) column = i; });
    const c = Math.floor((p.y - w.top) / w.h * w.w[column]);
    if (c >= 0 && c < w.w[column] && Math.abs(w.x[column] - p.x) < 60) draw(column, c);
  };
  svg.onpointermove = find;
  svg.onpointerdown = find;
}

// ---- everything
for (const button of document.querySelectorAll("#costs button")) button.onclick = () => {
  cost = button.dataset.cost;
  document.querySelectorAll("#costs button").forEach(b => b.setAttribute("aria-pressed", b === button));
  drawFront();
};
function drawAll() { drawFront(); drawCurves(); drawBest(); drawAgreement(); }
drawAll();
drawTable();
pickBlocks();
document.querySelectorAll("svg[data-wiring]").forEach(traceable);
let width = innerWidth, waiting;
addEventListener("resize", () => { if (innerWidth !== width) { width = innerWidth; clearTimeout(waiting); waiting = setTimeout(drawAll, 120); } });
