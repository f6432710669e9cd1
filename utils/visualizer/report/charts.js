// Charts as SVG: lines with hover, grouped bars, a heat map. All texts are set as text, never as HTML.
"use strict";
const $ = id => document.getElementById(id);
const data = JSON.parse($("data").textContent);
const number = (value, digits = 3) => value === null || value === undefined ? "–" : value.toFixed(digits);
const whole = value => value.toLocaleString("en");

function tip(event, text) {
  const box = $("tip");
  box.style.display = text ? "block" : "none";
  box.textContent = text || "";
  const left = event.clientX + 14 + box.offsetWidth > innerWidth ? event.clientX - 14 - box.offsetWidth : event.clientX + 14;
  box.style.left = Math.max(left, 4) + "px";
  box.style.top = Math.min(event.clientY + 14, innerHeight - box.offsetHeight - 4) + "px";
}

function element(parent, name, attributes = {}, text) {
  const svg = parent instanceof SVGElement;
  const made = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  parent.append(made);
  return made;
}

function ticks(low, high, count) {
  const rough = (high - low) / count || 1, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map(m => m * power).find(s => s >= rough * 0.999);
  const found = [];
  for (let v = Math.ceil(low / step - 1e-9) * step; v <= high + step * 1e-9; v += step) found.push(v);
  return { found, digits: Math.max(0, -Math.floor(Math.log10(step) + 1e-9)) };
}

function keys(id, lines) {
  for (const line of lines) {
    const key = element($(id), "span");
    element(key, "i").style.background = line.color;
    key.append(line.name);
  }
}

// lines: [{name, color, x, y, width, opacity, dots, quiet}]; a null in y is a gap
function chart(id, lines, high, last, marks = []) {
  const svg = $(id), W = 600, H = 250, left = 44, right = 8, top = 8, bottom = 26;
  const X = x => left + x / last * (W - left - right), Y = y => H - bottom - Math.min(y, high) / high * (H - top - bottom);
  const vertical = ticks(0, high, 4), horizontal = ticks(0, last, 6);
  for (const y of vertical.found) {
    element(svg, "line", { x1: left, x2: W - right, y1: Y(y), y2: Y(y), class: "axis" });
    element(svg, "text", { x: left - 6, y: Y(y) + 4, "text-anchor": "end" }, y.toFixed(vertical.digits));
  }
  for (const x of horizontal.found)
    element(svg, "text", { x: X(x), y: H - 6, "text-anchor": X(x) > W - 24 ? "end" : "middle" }, whole(Math.round(Math.abs(x))));
  for (const line of lines) {
    let path = "", pen = "M";
    line.x.forEach((x, i) => {
      if (line.y[i] === null) return pen = "M";
      path += `${pen}${X(x).toFixed(1)} ${Y(line.y[i]).toFixed(1)}`;
      pen = "L";
      if (line.dots) element(svg, "circle", { cx: X(x), cy: Y(line.y[i]), r: 2.6, style: `fill:${line.color}` });
    });
    const style = `fill:none;stroke:${line.color};stroke-width:${line.width};stroke-opacity:${line.opacity || 1}`;
    element(svg, "path", { d: path, style, "stroke-linejoin": "round", "stroke-dasharray": line.dash || "" });
  }
  for (const mark of marks) {
    element(svg, "circle", { cx: X(mark.x), cy: Y(mark.y), r: 5.5, style: `fill:${mark.color};stroke:var(--panel);stroke-width:2` });
    const right = X(mark.x) > W - 80;
    element(svg, "text", { x: X(mark.x) + (right ? -9 : 9), y: Y(mark.y) + (mark.y > high * 0.9 ? 14 : -7), "text-anchor": right ? "end" : "start", class: "name" }, mark.text);
  }
  const cursor = element(svg, "line", { y1: top, y2: H - bottom, class: "cursor", visibility: "hidden" });
  svg.onmouseleave = event => { cursor.setAttribute("visibility", "hidden"); tip(event); };
  svg.onmousemove = event => {
    const box = svg.getBoundingClientRect();
    const at = ((event.clientX - box.x) / box.width * W - left) / (W - left - right) * last;
    const said = [];
    let step = null;
    for (const line of lines) {
      if (!line.x.length || line.quiet) continue;
      let near = 0;
      line.x.forEach((x, i) => { if (Math.abs(x - at) < Math.abs(line.x[near] - at)) near = i; });
      if (step === null) step = line.x[near];
      const where = line.x[near] === step ? "" : ` (step ${whole(line.x[near])})`;
      said.push(`${line.name} ${number(line.y[near])}${where}`);
    }
    if (step === null) return;
    cursor.setAttribute("visibility", "visible");
    for (const end of ["x1", "x2"]) cursor.setAttribute(end, X(step));
    tip(event, `step ${whole(step)}\n${said.join("\n")}`);
  };
}

// groups: [{name, values: [one a run]}]
function bars(id, groups, colors, names) {
  const svg = $(id), W = 1200, H = 300, left = 44, bottom = 90;
  svg.setAttribute("viewBox", `0 0 ${W} ${H}`);
  const Y = y => 8 + (1 - y) * (H - bottom - 8), slot = (W - left) / groups.length, bar = Math.min(slot * 0.8 / names.length, 26);
  for (const y of [0, 0.25, 0.5, 0.75, 1]) {
    element(svg, "line", { x1: left, x2: W, y1: Y(y), y2: Y(y), class: "axis" });
    element(svg, "text", { x: left - 6, y: Y(y) + 4, "text-anchor": "end" }, y.toFixed(2));
  }
  groups.forEach((group, g) => {
    const middle = left + (g + 0.5) * slot, label = group.name.length > 18 ? group.name.slice(0, 17) + "…" : group.name;
    element(svg, "text", { transform: `translate(${middle + 4} ${H - bottom + 12}) rotate(-40)`, "text-anchor": "end", class: "name" }, label);
    group.values.forEach((value, r) => {
      if (value === null) return;
      const x = middle + (r - names.length / 2) * bar;
      const rect = element(svg, "rect", { x, y: Y(value), width: bar * 0.92, height: Math.max(Y(0) - Y(value), 0.5), rx: 1.5, style: `fill:${colors[r]}` });
      rect.onmousemove = event => tip(event, `${group.name}\n${names.map((n, i) => `${n} ${number(group.values[i])}`).join("\n")}`);
      rect.onmouseleave = event => tip(event);
    });
  });
}

// counts[row][column] in pixels; only the rows and columns that are named are drawn
function heat(id, counts, names, rows, columns) {
  const svg = $(id), label = Math.min(150, 14 + 6.2 * Math.max(...[...rows, ...columns].map(i => Math.min(names[i].length, 22))));
  const cell = Math.min(54, (600 - label) / columns.length), W = 600, H = label + cell * rows.length;
  svg.replaceChildren();
  svg.setAttribute("viewBox", `0 0 ${W} ${H}`);
  const cut = name => name.length > 22 ? name.slice(0, 21) + "…" : name, size = `font-size:${Math.min(11, cell * 0.85)}px`;
  const totals = rows.map(r => counts[r].reduce((a, b) => a + b, 0));
  columns.forEach((c, j) => element(svg, "text", { transform: `translate(${label + (j + 0.5) * cell + 4} ${label - 6}) rotate(-45)`, style: size }, cut(names[c])));
  rows.forEach((r, i) => {
    element(svg, "text", { x: label - 6, y: label + (i + 0.5) * cell + 4, "text-anchor": "end", style: size, class: "name" }, cut(names[r]));
    element(svg, "rect", { x: label, y: label + i * cell, width: cell * columns.length - 1, height: cell - 1, style: "fill:var(--faint);fill-opacity:.45" });
    columns.forEach((c, j) => {
      const percent = 100 * counts[r][c] / totals[i];
      if (percent < 0.5) return;
      const fill = `fill:color-mix(in srgb, var(--train) ${(8 + 0.92 * percent).toFixed(0)}%, var(--panel))`;
      element(svg, "rect", { x: label + j * cell, y: label + i * cell, width: cell - 1, height: cell - 1, style: fill });
      if (cell >= 17) element(svg, "text", { x: label + (j + 0.5) * cell, y: label + (i + 0.5) * cell + 4, "text-anchor": "middle", style: size, class: percent > 52 ? "inside" : "name" }, percent.toFixed(0));
    });
  });
  svg.onmouseleave = event => tip(event);
  svg.onmousemove = event => {
    const box = svg.getBoundingClientRect(), scale = W / box.width;
    const i = Math.floor(((event.clientY - box.y) * scale - label) / cell), j = Math.floor(((event.clientX - box.x) * scale - label) / cell);
    if (!(i in rows) || !(j in columns)) return tip(event);
    const n = counts[rows[i]][columns[j]], share = (100 * n / totals[i]).toFixed(1), pixels = `${share} % (${whole(n)} pixels)`;
    const truth = names[rows[i]], taken = names[columns[j]];
    tip(event, truth === taken ? `${truth} found: ${pixels}` : `${truth} taken for ${taken}: ${pixels}`);
  };
}
