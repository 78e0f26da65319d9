// Draws the maps of one layer, and the figures. `element`, `props` and `watch` come from gr.HTML.

const find = (name) => element.querySelector(".in-" + name);
const slider = () => element.querySelector(".in-slide input");
let shown = { maps: [], figures: [] }, groups = [], layer = 0, patch = -1;

function make(name, className, ...parts) {
  const node = document.createElement(name);
  if (className) node.className = className;
  node.append(...parts);
  return node;
}

// -- one map

function mapOf(map) {
  const picture = make("div", "in-picture", make("img"));
  picture.tabIndex = 0;
  picture.setAttribute("role", "application");
  picture.addEventListener("pointermove", (event) => choose(patchAt(event, map)));
  picture.addEventListener("click", (event) => choose(patchAt(event, map)));
  picture.addEventListener("keydown", (event) => onKey(event, map));
  const bar = make("i");
  bar.style.background = `linear-gradient(to right, ${map.colours.join(", ")})`;
  return make("figure", "in-map", make("h3", "", map.title), make("p", "in-why", map.question),
    picture, make("div", "in-bar", make("span", "", map.low), bar, make("span", "", map.high),
      make("span", "", map.unit)), make("p", "in-told"), make("p", "in-words", map.words));
}

function drawMap(node, map) {
  const picture = node.querySelector(".in-picture"), image = picture.querySelector("img");
  const at = Math.min(layer, map.pictures.length - 1);
  if (image.getAttribute("src") !== map.pictures[at]) image.src = map.pictures[at];
  image.alt = "";
  picture.setAttribute("aria-label", `${map.title}, layer ${at}. ${map.words}`);
  picture.querySelector(".in-cursor")?.remove();
  const box = map.boxes.find(([token]) => token === patch);
  node.querySelector(".in-told").textContent = box ? tellPatch(map, at) : map.boxes.length ?
    "Point at a patch, or use the arrow keys" : "";
  if (!box) return;
  const cursor = make("span", "in-cursor"), [, left, top, right, bottom] = box;
  for (const [side, share] of [["left", left], ["top", top], ["width", right - left],
    ["height", bottom - top]]) cursor.style[side] = `${100 * share}%`;
  picture.append(cursor);
}

function tellPatch(map, at) {
  const value = map.values[at][patch], word = map.told[at]?.[patch];
  const said = value === null ? "not there" : word ? `“${word}”, ${value}` : String(value);
  return `Patch ${patch}, layer ${at}: ${said}`;
}

// -- the chosen patch

function patchAt(event, map) {
  const box = event.currentTarget.getBoundingClientRect();
  const x = (event.clientX - box.left) / box.width, y = (event.clientY - box.top) / box.height;
  const found = map.boxes.find(([, left, top, right, bottom]) =>
    left <= x && x < right && top <= y && y < bottom);
  return found ? found[0] : -1;
}

// The patch whose middle lies next in the direction of an arrow key.
function beside(map, key) {
  const middle = ([, left, top, right, bottom]) => [(left + right) / 2, (top + bottom) / 2];
  const from = map.boxes.find(([token]) => token === patch);
  if (!from) return map.boxes[Math.floor(map.boxes.length / 2)]?.[0] ?? -1;
  const axis = key === "ArrowLeft" || key === "ArrowRight" ? 0 : 1;
  const sign = key === "ArrowRight" || key === "ArrowDown" ? 1 : -1, start = middle(from);
  let best = patch, least = Infinity;
  for (const box of map.boxes) {
    const to = middle(box), ahead = sign * (to[axis] - start[axis]);
    const away = Math.abs(to[1 - axis] - start[1 - axis]);
    if (ahead > 1e-6 && ahead + 10 * away < least) [best, least] = [box[0], ahead + 10 * away];
  }
  return best;
}

function onKey(event, map) {
  if (event.altKey || event.ctrlKey || event.metaKey) return;
  if (event.key.startsWith("Arrow")) choose(beside(map, event.key));
  else if (event.key === "Escape" && patch >= 0) choose(-1);
  else return;
  event.preventDefault();
}

function choose(token) {
  if (token === patch) return;
  patch = token;
  draw();
}

// -- a new value

function draw() {
  find("layer").textContent = `${layer} of 0–${shown.layers - 1}`;
  slider().setAttribute("aria-valuetext", `layer ${layer}`);
  [...find("maps").children].forEach((node, number) => drawMap(node, shown.maps[number]));
  [...find("figures").children].forEach((node, number) => {
    drawFigure(node, groups[number]);
    node.classList.toggle("in-first", isFirst(number));
  });
}

// Is it the first of an analysis' several figures? Those stand beside each other.
function isFirst(number) {
  const name = (at) => groups[at]?.[0].analysis;
  return name(number - 1) !== name(number) && name(number + 1) === name(number);
}

// A figure alone, or the figures of an analysis that has one per layer.
function groupsOf(figures) {
  const found = [];
  for (const figure of figures) {
    const last = found.at(-1)?.[0];
    const belongs = figure.layer !== null && last?.layer != null;
    if (belongs && last.analysis === figure.analysis) found.at(-1).push(figure);
    else found.push([figure]);
  }
  return found;
}

function figureOf([figure]) {
  const scroll = make("div", "in-scroll");
  scroll.tabIndex = 0;
  scroll.setAttribute("role", "region");
  return make("figure", "in-figure", make("h3", "", figure.analysis),
    make("p", "in-why", figure.question), scroll);
}

// Of several layers the nearest one: an analysis may hold only some.
function drawFigure(node, group) {
  const far = (figure) => Math.abs(figure.layer - layer);
  const figure = group.reduce((best, other) => (far(other) < far(best) ? other : best));
  const scroll = node.querySelector(".in-scroll");
  if (scroll.getAttribute("aria-label") === figure.title) return;
  scroll.setAttribute("aria-label", figure.title);
  scroll.innerHTML = figure.svg; // made by the server, which escapes all words
}

function receive(value) {
  value = value?.maps ? value : { maps: [], figures: [], layers: 0 };
  if (value.layers !== shown.layers) [layer, patch] = [Math.floor(value.layers / 3), -1];
  shown = value;
  groups = groupsOf(value.figures);
  find("board").hidden = !value.maps.length && !value.figures.length;
  find("asked").textContent = value.asked ?? "";
  const follows = value.maps.length || groups.some((group) => group.length > 1);
  element.querySelector(".in-slide").hidden = !follows;
  slider().max = Math.max(0, value.layers - 1);
  slider().value = layer;
  grow(find("maps"), value.maps, mapOf, (map) => map.title);
  grow(find("figures"), groups, figureOf, ([figure]) => figure.title);
  draw();
}

// Add what is new behind what stands there already: that may have the focus.
function grow(box, items, make, nameOf) {
  const names = items.map(nameOf), there = [...box.children].map((node) => node.dataset.name);
  const grown = there.every((name, number) => name === names[number]);
  if (!grown) box.replaceChildren();
  for (const item of items.slice(box.children.length)) {
    const node = make(item);
    node.dataset.name = nameOf(item);
    box.append(node);
  }
}

slider().addEventListener("input", (event) => { layer = Number(event.target.value); draw(); });
watch("value", () => receive(props.value));
receive(props.value);
