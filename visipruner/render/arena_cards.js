// One card per side: its answer, its costs, and its picture.

function make(name, className, ...parts) {
  const node = document.createElement(name);
  if (className) node.className = className;
  node.append(...parts);
  return node;
}

function card(number) {
  const side = shown.sides[number], contender = contenders[number];
  const node = make("li", `ar-side ar-side-${number}`);
  node.append(make("h3", "", side.title));
  if (side.refused) {
    node.classList.add("ar-is-refused");
    node.append(make("p", "ar-refused", side.refused));
    return node;
  }
  if (!contender.finished) {
    node.classList.add("ar-waits");
    node.append(make("p", "ar-answer", make("span", "vp-if-running", "…"),
      make("span", "vp-if-over", "not run")));
    return node;
  }
  node.append(answerOf(side), costsOf(side), pictureOf(number));
  return node;
}

function answerOf(side) {
  const long = side.answer.length > 14;
  const node = make("p", "ar-answer", make("b", long ? "ar-long" : "", side.answer || "(no word)"));
  if (long) node.tabIndex = 0; // it may scroll
  const verdict = judgedOf(side);
  if (verdict) node.append(" ", verdict);
  return node;
}

// Right or wrong where the truth is known; otherwise, the same as the full model or not.
function judgedOf(side) {
  if (side.judged.length) {
    const [kind, sign, words] = side.judged;
    const mark = make("span", `ar-mark ar-${kind}`);
    mark.append(Object.assign(make("span", "", sign), { ariaHidden: "true" }), ` ${words}`);
    return mark;
  }
  if (side.same === null || side === shown.sides[0]) return null;
  return make("span", "ar-mark", side.same ? "the same" : "another answer");
}

function costsOf(side) {
  const { tokens, flops, fewer, first } = side.words, first_side = side === shown.sides[0];
  const missed = !first_side && missesWish(side);
  return make("dl", "ar-costs",
    cost(tokens, missed ? `tokens, wished ${shown.asked.tokens}` : "tokens per layer",
      missed ? "ar-off" : ""),
    cost(flops, first_side ? "prefill" : `prefill, ${fewer}`),
    cost(first, "first word"));
}

function cost(value, label, className = "") {
  return make("div", "", make("dt", className, label), make("dd", "", make("strong", "", value)));
}

// Did a method miss the wish by more than a few tokens?
function missesWish(side) {
  const wished = shown.asked.tokens;
  return Math.abs(side.tokens - wished) > 0.05 * wished;
}

function pictureOf(number) {
  const canvas = make("canvas", "ar-canvas"), contender = contenders[number];
  canvas.tabIndex = 0;
  canvas.setAttribute("role", "application");
  canvas.setAttribute("aria-label", pictureWords(number, contender));
  wireCanvas(canvas);
  watchCanvas(canvas, new ArenaPainter(canvas, PALETTE),
    (painter) => painter.drawPresence(contender, cursor));
  return make("div", "ar-frame", canvas);
}

function pictureWords(number, contender) {
  const { title } = shown.sides[number], kept = contender.keeps.filter(Boolean).length;
  const merged = contender.merges().size;
  const joined = merged ? `, ${merged} are merged into others` : "";
  return `The picture as ${title} leaves it${contender.gridText()}: ${kept} of ` +
    `${contender.length} keep a token of their own${joined}.`;
}
