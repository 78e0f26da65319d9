// Place, change, move and delete things.
// `element`, `props`, `watch` and `trigger` come from gr.HTML.

const find = (name) => element.querySelector(".cs-" + name);
const brush = { shape: "star", colour: "red", size: "medium", digit: 3 };
const PATCH = 14; // pixels per press of an arrow key
let things = [], seed = 0, chosen = -1, drag = null, tap = null;

// -- state

function receive(value) {
  things = ((value && value.things) || []).map((thing) => ({ ...thing }));
  seed = (value && value.seed) || 0;
  chosen = -1;
  find("live").textContent = "Click to place a shape, drag to move it.";
  refresh();
}

function commit(words) {
  props.value = { things: things.map((thing) => ({ ...thing })), seed };
  refresh();
  find("live").textContent = words;
}

function name(thing) {
  return thing.shape === "digit" ? `digit ${thing.digit}`
    : `${thing.size} ${thing.colour} ${thing.shape}`;
}

function place(thing) {
  const third = (at) => Math.min(2, Math.max(0, Math.floor((3 * at) / props.side)));
  return props.places[third(thing.y)][third(thing.x)];
}

function described(thing) {
  return `${name(thing)}, ${place(thing)}`;
}

// -- actions

// True unless the scene is full.
function add(x, y) {
  if (things.length >= props.most) {
    find("live").textContent = `A scene holds at most ${props.most} shapes; delete one first.`;
    return false;
  }
  const { shape, colour, size, digit } = brush;
  const thing = shape === "digit"
    ? { shape, colour: "", size: "", digit, digit_index: props.digits[digit] }
    : { shape, colour, size };
  things.push({ ...thing, x, y, scale: 1, angle: 0 });
  chosen = things.length - 1;
  keepInside(things[chosen]);
  commit(`Added: ${described(things[chosen])}.`);
  return true;
}

// The place of a thing added without a pointer: the emptiest point of a coarse grid.
function freePlace() {
  const points = [];
  for (let row = 1; row < 6; row++) {
    for (let column = 1; column < 6; column++) {
      const x = (column * props.side) / 6, y = (row * props.side) / 6;
      const room = Math.min(props.side, ...things.map((thing) =>
        Math.hypot(thing.x - x, thing.y - y) - radiusOf(thing)));
      points.push({ x, y, room: room - Math.hypot(x - props.side / 2, y - props.side / 2) / 100 });
    }
  }
  return points.reduce((best, point) => (point.room > best.room ? point : best));
}

function addFreely() {
  const { x, y } = freePlace();
  add(Math.round(x), Math.round(y));
}

function remove() {
  if (chosen < 0) return;
  const [gone] = things.splice(chosen, 1);
  chosen = Math.min(chosen, things.length - 1);
  commit(`Deleted: ${name(gone)}. ${things.length} left.`);
}

function move(dx, dy) {
  const thing = things[chosen];
  if (!thing) return;
  Object.assign(thing, { x: thing.x + dx, y: thing.y + dy });
  keepInside(thing);
}

// Keeps things inside the picture: the model never learnt cut ones.
function keepInside(thing) {
  const room = radiusOf(thing), inside = (at) => Math.min(props.side - room, Math.max(room, at));
  Object.assign(thing, { x: Math.round(inside(thing.x)), y: Math.round(inside(thing.y)) });
}

function choose(index) {
  chosen = things.length ? (index + things.length) % things.length : -1;
  if (chosen >= 0) find("live").textContent = `Chosen: ${described(things[chosen])}.`;
  refresh();
}

// The buttons show the chosen thing's properties, and change them.
function setBrush(field, value) {
  brush[field] = value;
  const thing = things[chosen];
  if (!thing) return refresh();
  const card = brush.shape === "digit";
  Object.assign(thing, card
    ? { shape: "digit", colour: "", size: "", digit: brush.digit,
      digit_index: props.digits[brush.digit] }
    : { shape: brush.shape, colour: brush.colour, size: brush.size });
  keepInside(thing);
  commit(`Changed: ${described(thing)}.`);
}

// -- drawing

function refresh() {
  const thing = things[chosen];
  if (thing) {
    brush.shape = thing.shape;
    if (thing.shape === "digit") brush.digit = thing.digit;
    else Object.assign(brush, { colour: thing.colour, size: thing.size });
  }
  for (const radio of element.querySelectorAll("input")) {
    radio.checked = String(brush[radio.dataset.field]) === radio.value;
  }
  const card = brush.shape === "digit";
  find("colours").hidden = find("sizes").hidden = card;
  find("digits").hidden = !card;
  find("delete").disabled = chosen < 0;
  find("clear").disabled = find("use").disabled = !things.length;
  const all = things.map(described).join("; ");
  find("canvas").setAttribute("aria-label", all ? `Scene: ${all}` : "An empty scene");
  draw();
}

function draw() {
  const canvas = find("canvas"), context = canvas.getContext("2d");
  const wide = Math.max(1, Math.round(canvas.clientWidth * (window.devicePixelRatio || 1)));
  if (canvas.width !== wide || canvas.height !== wide) canvas.width = canvas.height = wide;
  const unit = wide / props.side;
  context.fillStyle = "#8b8b86";
  context.fillRect(0, 0, wide, wide);
  things.forEach((thing) => paintThing(context, thing, unit));
  const thing = things[chosen];
  if (!thing) return;
  for (const [colour, width] of [[props.ink, 5], [props.chosen, 2.5]]) {
    context.strokeStyle = colour;
    context.lineWidth = (width * wide) / canvas.clientWidth;
    context.beginPath();
    context.arc(thing.x * unit, thing.y * unit, (radiusOf(thing) + 5) * unit, 0, 2 * Math.PI);
    context.stroke();
  }
}

function radios(box, field, values, sample) {
  const group = `cs-${field}-${Math.random().toString(36).slice(2)}`;
  for (const value of values) {
    const label = document.createElement("label"), input = document.createElement("input");
    Object.assign(input, { type: "radio", name: group, value });
    input.dataset.field = field;
    input.addEventListener("change", () => setBrush(field, value));
    label.append(input, ...(sample ? [sample(value)] : []), String(value));
    find(box).append(label);
  }
}

function icon(shape) {
  const canvas = document.createElement("canvas"), context = canvas.getContext("2d");
  canvas.width = canvas.height = 48;
  if (shape === "digit") {
    const unit = 21 / props.digit_radius;
    paintThing(context, { shape, digit: brush.digit, x: 24 / unit, y: 24 / unit }, unit);
    return canvas;
  }
  context.translate(24, 24);
  context.scale(21, 21);
  context.fillStyle = "#7a7f87";
  context.fill(shapePath(shape), "evenodd");
  return canvas;
}

function swatch(colour) {
  const sample = document.createElement("i");
  sample.style.background = props.colours[colour];
  return sample;
}

// -- mouse, touch, keys

function pointOf(event) {
  const box = find("canvas").getBoundingClientRect(), scale = props.side / box.width;
  return { x: (event.clientX - box.left) * scale, y: (event.clientY - box.top) * scale };
}

// The thing on top was drawn last.
function thingAt({ x, y }) {
  return things.findLastIndex((thing) => Math.hypot(thing.x - x, thing.y - y) < radiusOf(thing));
}

function press(event) {
  if (event.button || !event.isPrimary) return; // the main button, the first finger
  const point = pointOf(event), top = thingAt(point);
  tap = drag = null;
  if (top < 0 && event.pointerType === "touch") {
    tap = point; // a finger on the ground may start to scroll
    return;
  }
  if (top >= 0) choose(top);
  else if (!add(Math.round(point.x), Math.round(point.y))) return;
  // Where the pointer holds the thing: it keeps this offset in spite of rounding.
  const { x, y } = things[chosen];
  drag = { x: x - point.x, y: y - point.y, moved: false };
  find("canvas").setPointerCapture(event.pointerId);
}

function pull(event) {
  if (!event.isPrimary) return;
  const { x, y } = pointOf(event);
  if (tap && Math.hypot(x - tap.x, y - tap.y) > PATCH) tap = null;
  if (!drag) return;
  Object.assign(things[chosen], { x: x + drag.x, y: y + drag.y });
  keepInside(things[chosen]);
  drag.moved = true;
  draw();
}

function release(event) {
  if (!event.isPrimary) return;
  if (tap && event.type === "pointerup") add(Math.round(tap.x), Math.round(tap.y));
  if (drag && drag.moved) commit(`Moved: ${described(things[chosen])}.`);
  tap = drag = null;
}

// A finger on a thing drags it; anywhere else it scrolls.
function holdStill(event) {
  if (thingAt(pointOf(event.touches[0])) >= 0) event.preventDefault();
}

function onKey(event) {
  if (event.altKey || event.ctrlKey || event.metaKey) return;
  const far = event.shiftKey ? 4 * PATCH : PATCH;
  const moves = {
    ArrowLeft: [-far, 0], ArrowRight: [far, 0], ArrowUp: [0, -far], ArrowDown: [0, far],
  };
  if (event.key in moves) {
    if (chosen < 0) choose(0);
    else { move(...moves[event.key]); commit(`Moved: ${described(things[chosen])}.`); }
  } else if (event.key === "Delete" || event.key === "Backspace") remove();
  else if (event.key === "[") choose(chosen < 0 ? things.length - 1 : chosen - 1);
  else if (event.key === "]") choose(chosen + 1);
  else if (event.key === "Enter") addFreely();
  else if (event.key === "Escape") { chosen = -1; refresh(); }
  else return;
  event.preventDefault();
  event.stopPropagation();
}

function wire() {
  radios("shapes", "shape", props.shapes, icon);
  radios("colours", "colour", Object.keys(props.colours), swatch);
  radios("sizes", "size", Object.keys(props.sizes));
  radios("digits", "digit", Object.keys(props.digits).map(Number));
  find("add").addEventListener("click", addFreely);
  find("delete").addEventListener("click", remove);
  find("clear").addEventListener("click", () => { things = []; chosen = -1; commit("Cleared."); });
  find("use").addEventListener("click", () => {
    trigger("submit");
    find("live").textContent = "Your scene and a question about it are in the form now.";
  });
  const canvas = find("canvas");
  canvas.addEventListener("touchstart", holdStill, { passive: false });
  canvas.addEventListener("pointerdown", press);
  canvas.addEventListener("pointermove", pull);
  canvas.addEventListener("pointerup", release);
  canvas.addEventListener("pointercancel", release);
  canvas.addEventListener("keydown", onKey);
  new ResizeObserver(draw).observe(canvas);
}

wire();
watch("value", () => receive(props.value));
receive(props.value);
