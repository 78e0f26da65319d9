// The parts around the picture: chips, sentences, colour scale, the surviving patches.

function show(node, text) {
  node.textContent = text || "";
  node.hidden = !text;
}

function build() {
  const layers = Math.max(story.layers.length, story.num_layers || 0);
  element.querySelector(".pv").classList.toggle("pv-has-picture", story.sheets.length > 0);
  element.querySelector(".pv").classList.toggle("pv-has-trace", story.layers.length > 0);
  const range = find("range");
  range.max = Math.max(0, layers - 1);
  range.style.setProperty("--cells", Math.max(1, layers));
  const cells = Array.from({ length: layers }, (_, layer) => ribbonCell(layer));
  find("ribbon").replaceChildren(...cells);
  find("chips").replaceChildren(...story.steps.map(chip));
  const modes = story.modes();
  if (!modes.includes(view.mode)) view.mode = "picture";
  find("modes").hidden = modes.length < 2;
  for (const radio of find("modes").querySelectorAll("input")) {
    radio.checked = radio.value === view.mode;
    radio.closest("label").hidden = !modes.includes(radio.value);
  }
  show(find("why"), story.why);
  show(find("note"), [story.note, sheetsNote(), paddingNote()].filter(Boolean).join(" "));
}

function sheetsNote() {
  const names = story.sheets.map((sheet) => sheet.name).filter(Boolean);
  return names.length > 1 ? `Beside each other: ${names.join("; ")}.` : "";
}

function paddingNote() {
  const padding = (story.padding || []).length;
  if (!padding || !story.placed.length) return "";
  return `${padding} patches marked × are only padding that makes the picture square.`;
}

function stageColour(stage) {
  return PALETTE.stages[stage] || PALETTE.stages.full;
}

function ribbonCell(layer) {
  const cell = document.createElement("span"), record = story.layers[layer];
  const share = record && story.length ? record.visual / story.length : 0;
  const bar = document.createElement("i");
  // The square root keeps ten of 576 tokens visible.
  bar.style.height = record ? `${Math.max(6, 100 * Math.sqrt(share))}%` : "0";
  if (record) bar.style.background = stageColour(record.stage);
  cell.append(bar);
  return cell;
}

function chip(step) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "pv-chip";
  button.style.setProperty("--stage", stageColour(step.stage));
  const tokens = `${step.visual} token${step.visual === 1 ? "" : "s"}`;
  const { first, last } = step;
  const layers = first === last ? `layer ${first}` : `layers ${first}–${last}`;
  for (const [name, text] of [["b", step.title], ["span", layers], ["span", tokens]]) {
    button.append(Object.assign(document.createElement(name), { textContent: text }), " ");
  }
  button.dataset.first = step.first;
  button.addEventListener("click", () => { stop(); go(step.first); });
  return button;
}

// -- the current layer

function refresh() {
  const record = story.layers[view.layer], step = story.stepOf(view.layer);
  const full = view.mode === "probe"; // the full model's colours: it drops nothing
  find("number").textContent = full ? String(story.length) : countText(record);
  find("of").textContent = story.length ? `of ${story.length} visual tokens` : "visual tokens";
  find("where").textContent = whereText(record, step);
  // Spoken when a person steps, not when layers arrive quickly.
  find("where").setAttribute("aria-live", timer || story.kind === "live" ? "off" : "polite");
  find("range").value = view.layer;
  const spoken = `${whereText(record, step)}, ${find("number").textContent} visual tokens`;
  find("range").setAttribute("aria-valuetext", spoken);
  find("canvas").setAttribute("aria-label", story.pictureLabel(view.layer));
  for (const button of find("chips").children) {
    const on = step && Number(button.dataset.first) === step.first;
    button.setAttribute("aria-pressed", String(Boolean(on)));
  }
  [...find("ribbon").children].forEach((cell, layer) => {
    cell.classList.toggle("pv-now", layer === view.layer);
  });
  const present = story.present(view.layer), staying = story.staying(view.layer);
  const differ = present && present.some((flag, patch) => flag && !staying[patch]);
  find("key").hidden = !present || !(differ || present.includes(0));
  find("key-stays").hidden = !staying || !staying.includes(1);
  find("key-leaving").hidden = !differ;
  find("gone-words").textContent = step && step.stage === "waiting" ? "waits outside"
    : goneText(present);
  find("key-gone").hidden = !present || !present.includes(0) || full;
  find("sentence").textContent = full ? fullText()
    : step ? step.sentence + leavingText(step) : waitingText(record);
  refreshHeat();
  refreshTray();
  refreshPatch();
  redraw();
}

function goneText(present) {
  const merged = story.merged(view.layer).length;
  if (!merged || !present) return "dropped before";
  const gone = present.filter((flag) => !flag).length;
  return gone > merged ? "dropped before; lighter: merged" : "merged into another token";
}

function fullText() {
  const unframed = find("key").hidden || find("key-stays").hidden;
  const framed = unframed ? "" : " The frames show what stayed in the pruned run.";
  return `The full model reads all ${story.length} visual tokens in every layer.${framed}`;
}

// Methods that drop by layer number may cut in the middle of a stage.
function leavingText(step) {
  const cut = story.cutAfter(view.layer);
  const gone = cut ? story.sets[cut.at].length - story.sets[cut.kept].length : 0;
  if (gone <= 0 || step.stage === "filter" || step.stage === "exit") return "";
  const merged = cut.carriers.length ? "merged or dropped" : "dropped";
  return ` After this layer ${gone} of them ${gone === 1 ? "is" : "are"} ${merged}.`;
}

function countText(record) {
  if (!record) return String(story.length || "–");
  const cut = story.cutAfter(view.layer), left = cut && story.sets[cut.kept].length;
  return cut && left !== record.visual ? `${record.visual} → ${left}` : String(record.visual);
}

function whereText(record, step) {
  if (!record) return story.sheets.length ? "before the first layer" : "";
  const live = story.kind === "live" ? `${story.label || "running"}: `
    : view.mode === "probe" ? "full model, " : "";
  const last = Math.max(story.layers.length, story.num_layers || 0) - 1;
  return `${live}layer ${view.layer} of 0–${last}${step && view.mode !== "probe" ? " · " + step.title : ""}`;
}

function waitingText(record) {
  if (!story.sheets.length) return "Nothing has run yet.";
  if (!record) return "The picture as the model sees it, cut into patches: one visual token each.";
  return `${record.visual} of ${story.length} visual tokens went through this layer. ` +
    "Which patches they are is shown as soon as the answer is there.";
}

function refreshHeat() {
  const heat = view.mode === "picture" ? null : story.heat(view.layer, view.mode);
  const plain = view.mode === "picture" ? view.asked && story.whyPlain() : !heat && plainText();
  find("plain").textContent = plain || "";
  find("legend").hidden = view.mode === "picture";
  if (view.mode === "picture") return;
  find("heatnote").textContent = heatText(heat);
  for (const part of ["scale", "ticks", "ends"]) find(part).hidden = !heat;
  if (!heat) return;
  const scale = find("scale"), context = scale.getContext("2d");
  for (let x = 0; x < scale.width; x++) {
    context.fillStyle = heatColour(x / (scale.width - 1), PALETTE.heat);
    context.fillRect(x, 0, 1, 1);
  }
  find("ticks").replaceChildren(...ticks(heat.scale));
}

// Of a layer without colours: why, and which layers have some.
function plainText() {
  const where = `${view.mode === "probe" ? "Full model" : "This run"}, layer ${view.layer}: `;
  const others = layersText(story.coloured(view.mode));
  if (view.mode === "scores") {
    return `${where}the method chose nothing after this layer. It chose after ${others}.`;
  }
  const why = view.mode === "run" ? story.whyUntested(view.layer) : "";
  return `${where}not tested${why}. Influence was tested in ${others}.`;
}

function heatText(heat) {
  if (!heat) return plainText();
  const where = `${view.mode === "probe" ? "Full model" : "This run"}, layer ${view.layer}: `;
  if (view.mode === "scores") return where + "the score by which the method chose.";
  return where + "how far the last word's attention output turns when one patch is left out " +
    "(1 − cosine). One scale for all layers.";
}

function ticks(range) {
  const [low, high] = range, marks = [];
  const mark = (value, text, name) => {
    const tick = document.createElement("span"), share = 100 * shareOf(value, range);
    Object.assign(tick, { textContent: text, className: name });
    tick.style.left = `${share}%`;
    tick.style.transform = `translateX(-${share}%)`; // keeps the label within the scale
    marks.push(tick);
  };
  const step = Math.max(1, Math.ceil((high - low) / 4));
  for (let decade = low; decade <= high; decade += step) {
    mark(10 ** decade, decadeText(decade), "pv-tick");
  }
  const threshold = view.mode === "scores" ? 1 : story.thresholds.layer_threshold;
  const share = shareOf(1 - threshold, range), inside = threshold < 1 && share >= 0 && share <= 1;
  if (inside) mark(1 - threshold, "", "pv-threshold");
  find("limit").textContent = inside ? `white mark: filters below cosine ${+threshold.toPrecision(6)}` : "";
  return marks;
}

function decadeText(decade) {
  return decade >= -3 ? String(+(10 ** decade).toFixed(3)) : "10" + [...String(decade)]
    .map((sign) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[sign] || "⁻").join("");
}

const TRAY_MOST = 16;

// The surviving patches, if few, large enough to recognise from the last row.
function refreshTray() {
  const tray = find("tray"), flags = story.staying(view.layer) || story.present(view.layer);
  const few = [...(flags || []).keys()].filter((p) => flags[p] && story.boxes[p]);
  tray.hidden = !painter.images || !few.length || few.length > TRAY_MOST || story.kind !== "done";
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
    button.addEventListener("click", () => choose(patch));
    return button;
  }));
}

function refreshPatch() {
  const patch = view.hover >= 0 ? view.hover : view.cursor, tip = find("tip");
  const line = story.placed.length
    ? story.patchLine(patch, view.layer, view.mode === "probe") : "";
  find("patch").textContent = line;
  show(tip, patch >= 0 ? line : "");
  if (tip.hidden) return;
  // In the opposite corner, so that the note never covers its patch.
  const { boxes, plane } = story, [left, top] = boxes[patch];
  tip.classList.toggle("pv-tip-left", left > plane.width / 2);
  tip.classList.toggle("pv-tip-top", top >= plane.height / 2);
}
