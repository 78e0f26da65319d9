// A new value, moves through layers and patches, and the wiring of all controls.
// `element`, `props` and `watch` come from gr.HTML.

const find = (name) => element.querySelector(".pv-" + name);
const painter = new Painter(find("canvas"), PALETTE);
const view = {
  layer: 0, mode: "picture", asked: false, cursor: -1, hover: -1, fading: null, progress: 1,
};
const calm = window.matchMedia("(prefers-reduced-motion: reduce)");
const PLAY_MS = 900, FADE_MS = 350;
let story = new Story({}, LOG_RANGE);
let shown = {}, timer = null, frame = null;

function redraw() {
  if (frame) return;
  frame = requestAnimationFrame(() => {
    frame = null;
    const canvas = find("canvas");
    painter.fit(canvas.clientWidth, story.plane.width / story.plane.height);
    painter.draw(story, view);
  });
}

// -- a new value

function receive(value) {
  value = sideOf(value && value.kind ? value : { kind: "empty" });
  const pictures = (one) => (one.sheets || []).map((sheet) => sheet.picture);
  const picture = pictures(value).join() !== pictures(shown).join(), wasLive = shown.kind === "live";
  shown = value;
  story = new Story(value, LOG_RANGE);
  if (picture) { painter.images = null; view.cursor = view.hover = -1; }
  if (picture && story.sheets.length) painter.load(pictures(value), refresh);
  if (value.kind !== "live") stop();
  if (value.kind !== "live" || !wasLive || view.layer >= story.layers.length - 2) {
    view.layer = Math.min(value.first || 0, Math.max(0, story.layers.length - 1));
  }
  view.fading = null;
  view.asked &&= value.kind === "live";
  build();
  refresh();
}

// -- moving

function go(layer, fade) {
  const last = Math.max(0, story.layers.length - 1), before = story.present(view.layer);
  const forward = layer > view.layer;
  view.layer = Math.min(Math.max(layer, 0), last);
  view.asked = false;
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
  return story.at(((event.clientX - box.left) / box.width) * story.plane.width,
    ((event.clientY - box.top) / box.height) * story.plane.height);
}

function hover(event) {
  const patch = event ? patchAt(event) : -1;
  if (patch === view.hover) return;
  view.hover = patch;
  refreshPatch();
  redraw();
}

function choose(patch) {
  view.cursor = patch;
  view.hover = -1;
  refreshPatch();
  redraw();
}

// Handles keys that step through layers; true if it did.
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
  if (!control && event.key.startsWith("Arrow") && story.placed.length) {
    choose(view.cursor < 0 ? startPatch() : story.beside(view.cursor, event.key));
    used = true;
  }
  if (event.key === "Escape" && view.cursor >= 0) { choose(-1); used = true; }
  if (!used && event.key === " " && !control) { play(); used = true; }
  if (!used && event.key === "h" && shown.kind !== "empty") { nextMode(); used = true; }
  if (used) { event.preventDefault(); event.stopPropagation(); }
}

// Arrow keys start at a surviving patch, or in the middle.
function startPatch() {
  const flags = story.staying(view.layer), { left, top, right, bottom } = story.sheets[0].frame;
  const kept = flags && flags.includes(0) ? story.placed.find((patch) => flags[patch]) : undefined;
  const middle = story.at((left + right) / 2, (top + bottom) / 2);
  return kept ?? (middle < 0 ? story.placed[0] : middle);
}

function nextMode() {
  const modes = story.modes();
  view.asked = true; // from now on the picture says why it has no colours
  setMode(modes[(modes.indexOf(view.mode) + 1) % modes.length]);
}

function setMode(mode) {
  view.mode = mode;
  for (const radio of find("modes").querySelectorAll("input")) radio.checked = radio.value === mode;
  refresh();
}

// On a projector, a presenter's remote sends PageUp and PageDown, whatever has the focus.
function onRemote(event) {
  if (!element.isConnected) return document.removeEventListener("keydown", onRemote);
  const typing = event.target.closest && event.target.closest("input, textarea, [contenteditable]");
  const projected = element.closest(".projector") && story.layers.length;
  if (event.defaultPrevented || typing || !projected) return;
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
  canvas.addEventListener("pointermove", (event) => {
    if (event.pointerType === "mouse") hover(event);
  });
  canvas.addEventListener("pointerleave", () => hover(null));
  canvas.addEventListener("click", (event) => {
    const patch = patchAt(event);
    choose(patch === view.cursor ? -1 : patch); // a second tap removes the note
  });
  element.addEventListener("keydown", onKey);
  document.addEventListener("keydown", onRemote);
  new ResizeObserver(redraw).observe(canvas);
}

wire();
watch("value", () => receive(props.value));
receive(props.value);
