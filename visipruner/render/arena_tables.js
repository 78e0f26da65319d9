// The tables: all methods, the overlap of every two, and one patch in each method.

const COLUMNS = [
  ["Method", (side) => side.title, (side) => side.title],
  ["Answer", (side) => side.answer, (side) => side.answer],
  ["Right", (side) => ["right", "wrong"].indexOf(side.judged[0]), judgedOf],
  ["Tokens per layer", (side) => side.tokens, (side) => side.words.tokens],
  ["FLOPs to read the prompt", (side) => side.flops,
    (side) => `${side.words.flops}${side.words.fewer && side !== shown.sides[0] ? `, ${side.words.fewer}` : ""}`],
  ["First word", (side) => side.first, (side) => side.words.first],
];
const sorting = { column: -1, down: false };

function headRow(names) {
  return make("tr", "", ...names.map((name) => {
    if (!name) return make("td", "");
    const head = make("th", "", name);
    head.scope = "col";
    return head;
  }));
}

function rowHead(...words) {
  const head = make("th", "", ...words);
  head.scope = "row";
  return head;
}

// -- all methods

function fillNumbers() {
  const table = find("numbers");
  table.hidden = !isGallery();
  if (table.hidden) return;
  const judged = shown.sides.some((side) => side.judged?.length);
  const columns = COLUMNS.filter(([name]) => name !== "Right" || judged);
  table.querySelector("thead").replaceChildren(make("tr", "", ...columns.map(sortHead)));
  table.querySelector("tbody").replaceChildren(...sorted().map((side) => numbersRow(side, columns)));
}

function sortHead(column) {
  const head = make("th", ""), number = COLUMNS.indexOf(column), on = sorting.column === number;
  const arrow = make("span", "", on ? (sorting.down ? " ▼" : " ▲") : "");
  arrow.setAttribute("aria-hidden", "true");
  const button = make("button", "", column[0], arrow);
  button.type = "button";
  button.addEventListener("click", () => {
    Object.assign(sorting, { column: number, down: on && !sorting.down });
    fillNumbers();
    find("numbers").querySelectorAll("thead button")[
      [...head.parentElement.children].indexOf(head)]?.focus();
  });
  head.scope = "col";
  head.setAttribute("aria-sort", on ? (sorting.down ? "descending" : "ascending") : "none");
  head.append(button);
  return head;
}

// What has finished, in order; below it what waits and what was refused.
function sorted() {
  const done = shown.sides.filter((side) => side.words), value = COLUMNS[sorting.column]?.[1];
  const sign = sorting.down ? -1 : 1;
  if (value) {
    done.sort((a, b) => sign * (value(a) > value(b) ? 1 : value(a) < value(b) ? -1 : 0));
  }
  const open = shown.sides.filter((side) => !side.words && !side.refused);
  return [...done, ...open, ...shown.sides.filter((side) => side.refused)];
}

function numbersRow(side, columns) {
  const row = make("tr", "", rowHead(side.title));
  if (!side.words) {
    const cell = make("td", side.refused ? "ar-refused" : "");
    cell.colSpan = columns.length - 1;
    if (side.refused) cell.append(side.refused);
    else cell.append(make("span", "vp-if-running", "…"), make("span", "vp-if-over", "not run"));
    row.append(cell);
    return row;
  }
  for (const [name, , cell] of columns.slice(1)) {
    const whole = name !== "Answer" || side.answer.length < 15;
    row.append(make("td", whole ? "ar-whole" : "", cell(side) ?? "–"));
  }
  return row;
}

// -- overlap

function fillOverlap() {
  const table = find("overlap"), last = shown.sides.length - 1;
  const numbers = [...shown.sides.keys()].filter((i) => i && shown.sides[i].words);
  const found = (a, b) => shown.pairs.find((pair) => pair.first === a && pair.second === b);
  table.closest(".ar-beside").classList.toggle("ar-no-pairs", numbers.length < 2);
  if (last < 1 || numbers.length < 2) return;
  const columns = numbers.slice(1), rows = numbers.slice(0, -1);
  table.querySelector("thead").replaceChildren(
    headRow(["", ...columns.map((number) => shown.sides[number].title)]));
  table.querySelector("tbody").replaceChildren(...rows.map((row) => make("tr", "",
    rowHead(shown.sides[row].title),
    ...columns.map((column) => overlapCell(row < column && found(row, column))))));
}

function overlapCell(pair) {
  if (!pair) return make("td", "");
  return make("td", "", make("b", "", pair.overlap.toFixed(2)), " ",
    make("small", "", pair.chance.toFixed(2)));
}

// -- one patch

const FATES = ["Method", "Its score", "Rank", "Cut", "What became of it"];

function fillPatch() {
  const box = find("fates").parentElement, place = find("place");
  box.hidden = cursor < 0;
  if (cursor < 0) {
    place.textContent = "Point at a patch, tap it, or use the arrow keys: what did each method do " +
      "with it?";
    return;
  }
  const padding = (shown.padding || []).includes(cursor) ? " (only padding)" : "";
  const methods = pruned(), judges = choosing(), keeps = (n) => contenders[n].keeps[cursor];
  const kept = judges.filter(keeps).length;
  place.textContent = `${contenders[0].place(cursor)}${padding}: kept by ${kept} of ` +
    `${judges.length} method${judges.length === 1 ? "" : "s"}`;
  find("fates").querySelector("thead").replaceChildren(headRow(FATES));
  find("fates").querySelector("tbody").replaceChildren(...methods.map((number) => {
    const { score, rank, cut, fate } = contenders[number].told(cursor);
    const row = make("tr", judges.includes(number) && keeps(number) ? "ar-kept" : "");
    row.append(rowHead(shown.sides[number].title), ...[score, rank, cut].map((words) =>
      make("td", "ar-whole", words)), make("td", "", fate));
    return row;
  }));
}
