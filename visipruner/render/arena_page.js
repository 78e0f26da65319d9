// A new value, the chosen patch, and the wiring. `element`, `props` and `watch` come from gr.HTML.

const find = (name) => element.querySelector(".ar-" + name);
const MOST_IN_A_ROW = 5;
let shown = { sides: [] }, contenders = [], cursor = -1, mode = "each", drawn = [];
const decoder = new ArenaPainter(document.createElement("canvas"), PALETTE);
const resized = new ResizeObserver(() => redraw());

// Indices of the finished sides but the baseline.
function pruned() {
  return [...contenders.keys()].filter((number) => number && contenders[number].finished);
}

// Of these, the ones that choose among patches: the others keep or drop all alike.
function choosing() {
  return pruned().filter((number) => contenders[number].chooses);
}

// Many methods: one table of numbers, and small pictures below it.
function isGallery() {
  return shown.sides.length > MOST_IN_A_ROW;
}

// -- drawing

// Each canvas draws when its size, the picture or the chosen patch changes.
function watchCanvas(canvas, painter, draw) {
  drawn.push({ canvas, painter, draw });
  resized.observe(canvas);
}

let frame = null;
function redraw() {
  if (frame) return;
  frame = requestAnimationFrame(() => {
    frame = null;
    let framed = false;
    for (const { canvas, painter, draw } of drawn) {
      if (!canvas.clientWidth) continue; // hidden
      painter.share(decoder);
      const { plane } = contenders[0];
      painter.fit(canvas.clientWidth, plane.width / plane.height);
      draw(painter);
      framed ||= painter.framed;
    }
    find("key-framed").hidden = !framed;
  });
}

// -- a new value

function receive(value) {
  value = value?.kind && value.sides.length ? value : { sides: [] };
  const picture = (one) => (one.sheets || []).map((sheet) => sheet.picture);
  const isNew = picture(value).join() !== picture(shown).join();
  if (isNew || value.asked?.question !== shown.asked?.question) cursor = -1;
  shown = value;
  find("board").hidden = !value.sides.length;
  contenders = value.sides.map((side) => new Contender(value, side));
  if (!value.sides.length) return;
  if (isNew) {
    decoder.images = null;
    decoder.load(picture(value), redraw);
  }
  fillHead();
  fillBoard();
}

function fillHead() {
  const { question, words, truth } = shown.asked;
  for (const [name, text] of [["question", question], ["wish", words], ["truth", truth]]) {
    find(name).textContent = text;
  }
  find("clock").textContent = shown.sides.find((side) => side.words)?.words.clock ?? "measured";
  find("note").textContent = [shown.asked.note, shown.note].filter(Boolean).join(" ");
  find("key-merged").hidden = !contenders.some((one) => one.merges().size);
}

function fillBoard() {
  for (const { canvas } of drawn) resized.unobserve(canvas);
  drawn = [];
  const board = find("board");
  board.classList.toggle("ar-gallery", isGallery());
  board.classList.toggle("ar-agreeing", mode === "agreement");
  // A refused method of many has no picture: its sentence stands in the table.
  const cards = [...shown.sides.keys()].filter((n) => !isGallery() || contenders[n].finished);
  find("sides").style.setProperty("--sides", cards.length);
  find("sides").replaceChildren(...cards.map(card));
  find("agreement").hidden = mode !== "agreement";
  if (mode === "agreement") fillAgreement();
  fillNumbers();
  fillPatch();
  redraw();
}

function fillAgreement() {
  const methods = choosing(), counts = new Uint8Array(shown.num_visual);
  for (const number of methods) {
    contenders[number].keeps.forEach((kept, patch) => { counts[patch] += kept; });
  }
  const old = find("one").querySelector("canvas"), canvas = old.cloneNode(); // without listeners
  canvas.removeAttribute("style");
  old.replaceWith(canvas);
  wireCanvas(canvas);
  const told = stepsOf(counts, methods.length);
  canvas.setAttribute("aria-label", `Agreement of ${methods.length} methods` +
    `${contenders[0].gridText()}: ${told.map(([words]) => words).join("; ")}`);
  watchCanvas(canvas, new ArenaPainter(canvas, PALETTE),
    (painter) => painter.drawAgreement(contenders[0], counts, methods.length, cursor));
  find("steps").replaceChildren(...told.map(([words, step]) => {
    const swatch = make("i", step ? "" : "ar-hatched");
    if (step) swatch.style.background = stepColour(step, methods.length);
    swatch.setAttribute("aria-hidden", "true");
    return make("li", "", swatch, ` ${words}`);
  }));
  const others = pruned().filter((number) => !methods.includes(number));
  find("choosers").textContent = others.length ? "Not counted, because nothing was chosen among " +
    `patches: ${others.map((number) => shown.sides[number].title).join("; ")}.` : "";
  fillOverlap();
}

// [words, step] from all methods down to none.
function stepsOf(counts, most) {
  const steps = Array.from({ length: most + 1 }, (_, i) => most - i);
  const found = steps.filter((step) => most < MOST_IN_A_ROW || counts.includes(step));
  return found.map((step) => {
    const many = counts.filter((count) => count === step).length;
    const who = step === most && most > 1 ? `all ${most}` : step || "none";
    return [`${who}: ${many} patch${many === 1 ? "" : "es"}`, step];
  });
}

// -- the chosen patch

function choose(patch) {
  cursor = patch;
  fillPatch();
  redraw();
}

function patchAt(event) {
  const box = event.target.getBoundingClientRect(), { plane } = contenders[0];
  return contenders[0].at(((event.clientX - box.left) / box.width) * plane.width,
    ((event.clientY - box.top) / box.height) * plane.height);
}

function onKey(event) {
  if (!event.target.matches("canvas") || event.altKey || event.ctrlKey || event.metaKey) return;
  const story = contenders[0];
  if (event.key.startsWith("Arrow") && story.placed.length) {
    choose(cursor < 0 ? firstPatch(story) : story.beside(cursor, event.key));
  } else if (event.key === "Escape" && cursor >= 0) choose(-1);
  else return;
  event.preventDefault();
}

// Arrow keys start in the middle.
function firstPatch(story) {
  const { left, top, right, bottom } = story.sheets[0].frame;
  const middle = story.at((left + right) / 2, (top + bottom) / 2);
  return middle < 0 ? story.placed[0] : middle;
}

function wireCanvas(canvas) {
  canvas.addEventListener("click", (event) => {
    const patch = patchAt(event);
    choose(patch === cursor ? -1 : patch); // a second tap takes it back
  });
}

function wire() {
  const name = "ar-mode-" + Math.random().toString(36).slice(2);
  for (const radio of find("modes").querySelectorAll("input")) {
    radio.name = name;
    radio.addEventListener("change", () => { mode = radio.value; fillBoard(); });
  }
  element.addEventListener("keydown", onKey);
}

wire();
watch("value", () => receive(props.value));
receive(props.value);
