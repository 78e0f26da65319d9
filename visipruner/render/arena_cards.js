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
  const words = make("b", side.answer.length > 14 ? "ar-long" : "", side.answer || "(no word)");
  const node = make("p", "ar-answer", words);
  node.tabIndex = 0; // a long answer scrolls
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
  const { tokens, flops, fewer, first, clock } = side.words;
  const list = make("dl", "ar-costs");
  const wished = shown.asked.tokens, off = side !== shown.sides[0]
    && Math.abs(side.tokens - wished) > 0.05 * wished;
  const rows = [
    ["tokens per layer", tokens, off ? `wished ${wished}` : `of ${shown.num_visual}`, "executed"],
    ["to read the prompt", flops, side === shown.sides[0] ? "" : fewer, "executed"],
    ["first word", first, "", "measured", clock],
  ];
  for (const [label, value, more, kind, how] of rows) {
    const number = make("dd", "", make("strong", "", value));
    if (more) number.append(" ", make("span", off && label === "tokens per layer" ? "ar-off" : "", more));
    const row = make("div", "", make("dt", "", label, " ", tag(kind, how)), number);
    list.append(row);
  }
  return list;
}

function tag(kind, words) {
  return make("span", `ar-tag ar-${kind}`, words || kind);
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
