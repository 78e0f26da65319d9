// The page around the canvas: controls, keys, sentences. `element`, `props` and `watch` come from gr.HTML.

const find = (name) => element.querySelector(".pv-" + name);
const painter = new Painter(find("canvas"), props.palette);
const view = { layer: 0, mode: "picture", cursor: -1, hover: -1, fading: null, progress: 1 };
const calm = window.matchMedia("(prefers-reduced-motion: reduce)");
const PLAY_MS = 900, FADE_MS = 350;
let story = new Story({}, props.log_range);
let shown = {}, timer = null, frame = null;

function show(node, text) {
  node.textContent = text || "";
  node.hidden = !text;
}

function redraw() {
  if (frame) return;
  frame = requestAnimationFrame(() => {
    frame = null;
    const canvas = find("canvas"), aspect = story.size ? story.size[0] / story.size[1] : 1;
    painter.fit(canvas.clientWidth, aspect);
    painter.draw(story, view);
  });
}

// -- a new value

function receive(value) {
  value = value && value.kind ? value : { kind: "empty" };
  const picture = value.picture !== shown.picture, wasLive = shown.kind === "live";
  shown = value;
  story = new Story(value, props.log_range);
  if (picture) { painter.image = null; view.cursor = view.hover = -1; }
  if (picture && value.picture) painter.load(value.picture, refresh);
  if (value.kind !== "live") stop();
  if (value.kind !== "live" || !wasLive || view.layer >= story.layers.length - 2) {
    view.layer = Math.min(value.first || 0, Math.max(0, story.layers.length - 1));
  }
  view.fading = null;
  if (view.mode === "probe" && !story.probe) view.mode = "picture";
  build();
  refresh();
}

function build() {
  const layers = Math.max(story.layers.length, story.num_layers || 0);
  element.querySelector(".pv").classList.toggle("pv-has-picture", Boolean(story.picture));
  element.querySelector(".pv").classList.toggle("pv-has-trace", story.layers.length > 0);
  const range = find("range");
  range.max = Math.max(0, layers - 1);
  find("ribbon").replaceChildren(...Array.from({ length: layers }, (_, layer) => ribbonCell(layer)));
  find("chips").replaceChildren(...story.steps.map(chip));
  find("probe").hidden = !story.probe;
  find("modes").hidden = !story.layers.some((_, i) => story.influence(i, "run")) && !story.probe;
  for (const radio of find("modes").querySelectorAll("input")) radio.checked = radio.value === view.mode;
  show(find("why"), story.why);
  show(find("note"), [story.note, paddingNote()].filter(Boolean).join(" "));
}

function paddingNote() {
  const padding = (story.padding || []).length;
  return padding ? `${padding} patches marked × are only padding that makes the picture square.` : "";
}

function ribbonCell(layer) {
  const cell = document.createElement("span"), record = story.layers[layer];
  const share = record && story.length ? record.visual / story.length : 0;
  const bar = document.createElement("i");
  // A square root keeps ten of 576 tokens visible.
  bar.style.height = record ? `${Math.max(6, 100 * Math.sqrt(share))}%` : "0";
  if (record) bar.style.background = props.palette.stages[record.stage] || props.palette.stages.full;
  cell.append(bar);
  return cell;
}

function chip(step) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "pv-chip";
  button.style.setProperty("--stage", props.palette.stages[step.stage] || props.palette.stages.full);
  const layers = step.first === step.last ? `layer ${step.first}` : `layers ${step.first}–${step.last}`;
  for (const [name, text] of [["b", step.title], ["span", layers], ["span", `${step.visual} tokens`]]) {
    button.append(Object.assign(document.createElement(name), { textContent: text }), " ");
  }
  button.dataset.first = step.first;
  button.addEventListener("click", () => { stop(); go(step.first); });
  return button;
}

// -- what the present layer says

function refresh() {
  const record = story.layers[view.layer], step = story.stepOf(view.layer);
  find("number").textContent = record ? record.visual : story.length || "–";
  find("of").textContent = story.length ? `of ${story.length} visual tokens` : "visual tokens";
  find("where").textContent = whereText(record, step);
  find("sentence").textContent = step ? step.sentence : waitingText(record);
  find("range").value = view.layer;
  find("range").setAttribute("aria-valuetext", `${whereText(record, step)}, ${record ? record.visual : 0} visual tokens`);
  find("canvas").setAttribute("aria-label", story.pictureLabel(view.layer));
  for (const button of find("chips").children) {
    const on = step && Number(button.dataset.first) === step.first;
    button.setAttribute("aria-pressed", String(Boolean(on)));
  }
  [...find("ribbon").children].forEach((cell, i) => cell.classList.toggle("pv-now", i === view.layer));
  refreshHeat();
  refreshTray();
  refreshPatch();
  redraw();
}

function whereText(record, step) {
  if (!record) return story.picture ? "before the first layer" : "";
  const live = story.kind === "live" ? `${story.label || "running"}: ` : "";
  const last = Math.max(story.layers.length, story.num_layers || 0) - 1;
  return `${live}layer ${view.layer} of 0–${last}${step ? " · " + step.title : ""}`;
}

function waitingText(record) {
  if (!story.picture) return "Nothing has run yet.";
  if (!record) return "This is the picture as the model sees it, cut into patches: one visual token each.";
  return `${record.visual} of ${story.length} visual tokens went through this layer. ` +
    "Which patches they are is shown as soon as the answer is there.";
}

function refreshHeat() {
  const on = view.mode !== "picture", influence = on && story.influence(view.layer, view.mode);
  find("legend").hidden = !on;
  if (!on || !story.scale) return;
  const model = view.mode === "probe" ? "Full model" : "This run";
  find("heatnote").textContent = influence
    ? `${model}, layer ${view.layer}: how far the answer's next step turns away without each patch ` +
      "(1 − cosine). One colour scale for all layers."
    : `${model}, layer ${view.layer}: not tested${view.mode === "run" ? story.whyUntested(view.layer) : ""}.`;
  const scale = find("scale"), context = scale.getContext("2d");
  for (let x = 0; x < scale.width; x++) {
    context.fillStyle = heatColour(x / (scale.width - 1), props.palette.heat);
    context.fillRect(x, 0, 1, 1);
  }
  find("ticks").replaceChildren(...ticks());
}

function ticks() {
  const [low, high] = story.scale, marks = [];
  const mark = (change, text, name) => {
    const tick = Object.assign(document.createElement("span"), { textContent: text, className: name });
    tick.style.left = `${100 * shareOf(change, story.scale)}%`;
    marks.push(tick);
  };
  const step = Math.max(1, Math.ceil((high - low) / 4));
  for (let decade = low; decade <= high; decade += step) mark(10 ** decade, decadeText(decade), "pv-tick");
  const threshold = story.thresholds.layer_threshold;
  if (threshold < 1 && shareOf(1 - threshold, story.scale) >= 0 && shareOf(1 - threshold, story.scale) <= 1) {
    mark(1 - threshold, "", "pv-threshold");
  }
  return marks;
}

function decadeText(decade) {
  return decade >= -3 ? String(+(10 ** decade).toFixed(3)) : "10" + [...String(decade)]
    .map((sign) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[sign] || "⁻").join("");
}

const TRAY_MOST = 16;

// The few patches that are left, large enough to be recognised from the last row.
function refreshTray() {
  const tray = find("tray"), flags = story.staying(view.layer) || story.present(view.layer);
  const few = flags ? [...flags.keys()].filter((patch) => flags[patch] && patch < story.perPicture) : [];
  tray.hidden = !painter.image || !few.length || few.length > TRAY_MOST || story.kind !== "done";
  if (tray.hidden) return tray.replaceChildren();
  painter.story = story;
  tray.replaceChildren(...few.map((patch) => {
    const button = document.createElement("button"), canvas = document.createElement("canvas");
    canvas.width = canvas.height = 120;
    painter.thumbnail(canvas, patch);
    button.type = "button";
    button.setAttribute("aria-label", story.place(patch));
    button.title = story.place(patch);
    button.append(canvas);
    button.addEventListener("click", () => { view.cursor = patch; refreshPatch(); redraw(); });
    return button;
  }));
}

function refreshPatch() {
  const patch = view.hover >= 0 ? view.hover : view.cursor;
  find("patch").textContent = story.picture && story.perPicture
    ? story.patchLine(patch, view.layer, view.mode === "probe") : "";
}

// -- moving

function go(layer, fade) {
  const last = Math.max(0, story.layers.length - 1), before = story.present(view.layer);
  const forward = layer > view.layer;
  view.layer = Math.min(Math.max(layer, 0), last);
  view.fading = fade && forward && !calm.matches ? before : null;
  if (view.fading) fadeIn();
  refresh();
}

function fadeIn() {
  const start = performance.now(), fading = view.fading;
  const step = (now) => {
    if (view.fading !== fading) return;
    view.progress = Math.min(1, (now - start) / FADE_MS);
    if (view.progress === 1) view.fading = null;
    redraw();
    if (view.fading) requestAnimationFrame(step);
  };
  view.progress = 0;
  requestAnimationFrame(step);
}

function playing(on) {
  find("play").textContent = on ? "❚❚ Pause" : "▶ Play";
  find("play").setAttribute("aria-label", on ? "Pause" : "Play through the layers");
  find("patch").setAttribute("aria-live", on ? "off" : "polite");
}

function stop() {
  clearInterval(timer);
  timer = null;
  playing(false);
}

function play() {
  if (timer) return stop();
  if (!story.layers.length) return;
  if (view.layer >= story.layers.length - 1) go(0);
  playing(true);
  timer = setInterval(() => {
    if (!element.isConnected || view.layer >= story.layers.length - 1) return stop();
    go(view.layer + 1, true);
  }, PLAY_MS);
}

function patchAt(event) {
  const box = find("canvas").getBoundingClientRect();
  const column = Math.floor(((event.clientX - box.left) / box.width) * story.columns);
  const row = Math.floor(((event.clientY - box.top) / box.height) * story.rows);
  const inside = row >= 0 && column >= 0 && row < story.rows && column < story.columns;
  return inside ? row * story.columns + column : -1;
}

function hover(event) {
  const patch = event ? patchAt(event) : -1, tip = find("tip");
  if (patch === view.hover) return;
  view.hover = patch;
  tip.hidden = patch < 0 || !story.picture;
  if (patch >= 0) {
    tip.textContent = story.patchLine(patch, view.layer, view.mode === "probe");
    const right = patch % story.columns > story.columns / 2;
    const low = patch / story.columns > story.rows / 2;
    tip.style.inset = `${low ? "0.5em" : "auto"} ${right ? "auto" : "0.5em"} ${low ? "auto" : "0.5em"} ${right ? "0.5em" : "auto"}`;
  }
  refreshPatch();
  redraw();
}

// Keys that step through layers; true if the key was one of them.
function layerKey(key) {
  const steps = { "[": -1, PageUp: -1, "]": 1, PageDown: 1 };
  if (!(key in steps)) return false;
  stop();
  go(view.layer + steps[key], true);
  return true;
}

function onKey(event) {
  if (event.altKey || event.ctrlKey || event.metaKey) return;
  const control = event.target.closest("input, button");
  let used = layerKey(event.key);
  if (!control && event.key.startsWith("Arrow") && story.perPicture) {
    view.cursor = moved(view.cursor, event.key, story.rows, story.columns);
    view.hover = -1;
    refreshPatch();
    redraw();
    used = true;
  }
  if (!used && event.key === " " && !control) { play(); used = true; }
  if (!used && event.key === "h" && !find("modes").hidden) { nextMode(); used = true; }
  if (used) { event.preventDefault(); event.stopPropagation(); }
}

function nextMode() {
  const modes = ["picture", "run", ...(story.probe ? ["probe"] : [])];
  setMode(modes[(modes.indexOf(view.mode) + 1) % modes.length]);
}

function setMode(mode) {
  view.mode = mode;
  for (const radio of find("modes").querySelectorAll("input")) radio.checked = radio.value === mode;
  refresh();
}

// On a projector the presenter's remote sends PageUp and PageDown wherever the focus is.
function onRemote(event) {
  if (!element.isConnected) return document.removeEventListener("keydown", onRemote);
  const typing = event.target.closest && event.target.closest("input, textarea, [contenteditable]");
  if (event.defaultPrevented || typing || !element.closest(".projector") || !story.layers.length) return;
  if (layerKey(event.key)) event.preventDefault();
}

function wire() {
  const name = "pv-mode-" + Math.random().toString(36).slice(2);
  for (const radio of find("modes").querySelectorAll("input")) {
    radio.name = name;
    radio.addEventListener("change", () => setMode(radio.value));
  }
  find("back").addEventListener("click", () => { stop(); go(view.layer - 1); });
  find("next").addEventListener("click", () => { stop(); go(view.layer + 1, true); });
  find("play").addEventListener("click", play);
  find("range").addEventListener("input", (event) => { stop(); go(Number(event.target.value)); });
  const canvas = find("canvas");
  canvas.addEventListener("pointermove", (event) => { if (event.pointerType === "mouse") hover(event); });
  canvas.addEventListener("pointerleave", () => hover(null));
  canvas.addEventListener("click", (event) => { view.cursor = patchAt(event); refreshPatch(); redraw(); });
  element.addEventListener("keydown", onKey);
  document.addEventListener("keydown", onRemote);
  new ResizeObserver(redraw).observe(canvas);
}

wire();
watch("value", () => receive(props.value));
receive(props.value);
