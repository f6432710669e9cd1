// What the page shows of its data: the curves, and for one run its validations.
const css = name => `var(--${name})`, last = Math.max(1, ...data.runs.map(run => run.last));
const top95 = values => { const sorted = values.filter(v => v !== null).sort((a, b) => a - b); return sorted.length ? sorted[Math.floor((sorted.length - 1) * 0.98)] : 1; };

function curves() {
  const losses = [], scores = [], marks = [];
  for (const run of data.runs) {
    const one = data.runs.length === 1, color = one ? css("train") : run.color;
    if (one) losses.push({ name: "train", color, ...run.loss, width: 1, opacity: 0.3, quiet: true });
    losses.push({ name: one ? "train, smoothed" : run.name, color, ...run.smooth, width: 2.2 });
    if (one) losses.push({ name: "validation", color: css("validation"), ...run.validation_loss, width: 2, dots: true });
    scores.push({ name: one ? "mean IoU" : run.name, color: one ? css("train") : color, ...run.miou, width: 2.4, dots: true });
    if (one) scores.push({ name: "pixel accuracy", color: css("soft"), ...run.accuracy, width: 1.4, dash: "2 3" });
    if (run.best) marks.push({ ...run.best, color: one ? css("best") : color, text: run.best.y.toFixed(3) });
  }
  const high = Math.max(1e-6, ...losses.filter(l => l.x.length).map(l => 1.08 * top95(l.y)));
  chart("loss", losses, high, last);
  chart("miou", scores, 1, last, marks);
  keys("loss-keys", losses.filter(line => !line.quiet));
  keys("miou-keys", data.runs.length === 1 ? [...scores, { name: "best", color: css("best") }] : scores);
}

// columns: [[title, key, show]]; a click on a title sorts by it, a second one the other way
function sortable(table, columns, rows, order) {
  const draw = () => {
    const sign = order.down ? -1 : 1, rank = v => v === null ? -Infinity : v;
    const sorted = [...rows].sort((a, b) => {
      const x = rank(a[order.key]), y = rank(b[order.key]);
      return sign * (typeof x === "string" ? x.localeCompare(y) : x === y ? 0 : x < y ? -1 : 1);
    });
    table.replaceChildren();
    const head = element(element(table, "thead"), "tr"), body = element(table, "tbody");
    for (const [title, key] of columns) {
      const cell = element(head, "th", { "data-key": key, class: key === order.key ? (order.down ? "down" : "up") : "" }, title);
      cell.onclick = () => { order.down = order.key === key ? !order.down : key !== "name"; order.key = key; draw(); };
    }
    for (const row of sorted) { const line = element(body, "tr"); for (const [, key, show] of columns) show(element(line, "td"), row[key], row); }
  };
  draw();
}

const plain = digits => (cell, value) => { cell.textContent = digits === 0 && value !== null ? whole(value) : number(value, digits); };
const order = { key: "iou", down: true };

const occurs = row => row.pixels || row.iou !== null;  // in the ground truth or in the predictions

function classTable(validation) {
  const columns = [
    ["class", "name", (cell, value, row) => { cell.className = "name"; cell.title = value; element(cell, "i", { class: "swatch" }).style.background = row.color; cell.append(value); }],
    ["IoU", "iou", plain(3)],
    ["", "iou", (cell, value, row) => { cell.className = "bars"; const bar = element(cell, "i", { class: "bar" }); bar.style.width = 100 * (value || 0) + "%"; bar.style.background = row.color; }],
    ["change", "change", (cell, value) => { cell.textContent = value === null ? "" : (value < 0 ? "−" : "+") + Math.abs(value).toFixed(3); cell.className = value < 0 ? "loss" : "gain"; }],
    ["precision", "precision", plain(3)], ["recall", "recall", plain(3)], ["pixels", "pixels", plain(0)],
  ];
  sortable($("classes"), columns, validation.classes.filter(occurs), order);
  const absent = validation.classes.filter(row => !occurs(row)).map(row => row.name);
  $("absent").textContent = absent.length ? `${absent.length} absent` : "";
  $("absent").title = absent.join(", ");
}

const bitmap = uri => new Promise((done, fail) => { const image = new Image(); image.onload = () => done(image); image.onerror = fail; image.src = uri; });
async function pixels(uri) {
  const image = await bitmap(uri), canvas = document.createElement("canvas");
  canvas.width = image.width; canvas.height = image.height;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  return context.getImageData(0, 0, image.width, image.height);
}

const IGNORED = 255, WRONG = [213, 94, 0], shown = data.classes.map(() => true);
let drawn = [], queued = false;
const redraw = () => { if (!queued) { queued = true; requestAnimationFrame(() => { queued = false; drawn.forEach(paint); }); } };

function paint({ image, target, prediction, canvases }) {
  const alpha = $("opacity").value / 100, isOn = id => id < shown.length && shown[id];
  canvases.forEach((canvas, panel) => {
    const out = new ImageData(new Uint8ClampedArray(image.data), image.width), p = out.data, ids = panel ? prediction.data : target.data;
    for (let i = 0; i < p.length; i += 4) {
      const truth = target.data[i], id = ids[i];
      let color = isOn(id) ? data.classes[id].rgb : null, share = alpha;
      if (panel === 2) {
        const pale = 0.35 * (p[i] + p[i + 1] + p[i + 2]) / 3 + 150, isWrong = truth !== IGNORED && truth !== id && (isOn(truth) || isOn(id));
        color = truth === IGNORED ? [255, 255, 255] : isWrong ? WRONG : [pale, pale, pale]; share = 1;
      }
      if (color) for (let k = 0; k < 3; k++) p[i + k] = (1 - share) * p[i + k] + share * color[k];
    }
    canvas.getContext("2d").putImageData(out, 0, 0);
  });
}

function hover(sample, canvas) {
  canvas.onmouseleave = event => tip(event);
  canvas.onmousemove = event => {
    const box = canvas.getBoundingClientRect();
    const x = Math.min(canvas.width - 1, Math.floor((event.clientX - box.x) / box.width * canvas.width));
    const y = Math.min(canvas.height - 1, Math.floor((event.clientY - box.y) / box.height * canvas.height));
    const at = 4 * (Math.max(y, 0) * canvas.width + Math.max(x, 0)), name = id => id === IGNORED ? "ignored" : data.classes[id] ? data.classes[id].name : `class ${id}`;
    const truth = sample.target.data[at], found = sample.prediction.data[at];
    tip(event, truth === found ? `${name(truth)}, found` : `target ${name(truth)}, predicted ${name(found)}`);
  };
}

let latest = 0;
async function samples(validation) {
  const call = ++latest, made = [];
  for (const sample of validation.samples) {
    const [image, target, prediction] = await Promise.all([sample.image, sample.target, sample.prediction].map(i => pixels(data.pictures[i])));
    made.push({ ...sample, image, target, prediction });
  }
  if (call !== latest) return;  // the slider has moved on
  $("samples").replaceChildren();
  drawn = made;
  for (const sample of made) {
    const box = element($("samples"), "div", { class: "sample" });
    element(box, "b", {}, sample.name);
    element(box, "span", { class: "soft" }, sample.note);
    const strip = element(box, "div", { class: "strip" });
    sample.canvases = ["target", "prediction", "error: wrong pixels vermilion, ignored ones white"].map(title => {
      const panel = element(strip, "div", {}, title);
      const canvas = element(panel, "canvas", { width: sample.image.width, height: sample.image.height });
      hover(sample, canvas);
      return canvas;
    });
  }
  legend(made);
  drawn.forEach(paint);
  document.body.dataset.step = validation.step;
}

function legend(made) {
  const occurring = new Set(made.flatMap(sample => [...new Set(sample.target.data), ...new Set(sample.prediction.data)]));
  $("legend").replaceChildren();
  const chip = (title, on, click) => { const made = element($("legend"), "button", { class: "chip", type: "button", "aria-pressed": on }, title); made.onclick = () => { click(made); redraw(); }; return made; };
  data.classes.forEach((item, id) => {
    if (!occurring.has(id)) return;
    const made = chip("", shown[id], button => { shown[id] = !shown[id]; button.setAttribute("aria-pressed", shown[id]); });
    element(made, "i").style.background = item.color;
    made.append(item.name);
  });
  for (const [title, on] of [["all", true], ["none", false]]) chip(title, true, () => { shown.fill(on); legend(made); });
}

function show(index) {
  const validation = data.validations[index];
  $("step-name").textContent = validation.title;
  classTable(validation);
  const { counts, rows, columns } = validation.confusion;
  if (rows.length) heat("confusion", counts, data.classes.map(item => item.name), rows, columns);
  $("samples-card").hidden = !validation.samples.length;
  $("scale").textContent = validation.scale;
  samples(validation);
}

curves();
if (data.groups) bars("bars", data.groups, data.runs.map(run => run.color), data.runs.map(run => run.name));
if (data.validations && data.validations.length) {
  $("validations").hidden = false;
  $("step").max = data.validations.length - 1;
  $("step").value = data.validations.length - 1;
  $("step-label").hidden = data.validations.length < 2;
  $("step").oninput = () => show(+$("step").value);
  $("opacity").oninput = redraw;
  show(data.validations.length - 1);
}
if (data.runs.length > 1) keys("bars-keys", data.runs);
