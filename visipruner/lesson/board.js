// Plays a lesson: one step at a time, a prediction first, then what the server found.
// `element`, `props`, `watch` and `trigger` come from gr.HTML.

const { steps, quiz, title, about, minutes } = props.lesson;
const find = (name) => element.querySelector(".le-" + name);
const END = steps.length; // the quiz stands behind the last step
const got = [], said = [], places = [], answers = [];
let at = 0, busy = -1, stopped = 0, begun = 0;
let turn = 0; // each run has its own, so that late news of another is known

function make(name, className, ...parts) {
  const node = document.createElement(name);
  if (className) node.className = className;
  node.append(...parts);
  return node;
}

function button(className, words, act) {
  const node = make("button", className, words);
  node.type = "button";
  node.addEventListener("click", act);
  return node;
}

// New parts in place of the old ones; the keyboard's focus stays where it was, or goes on to the
// next button that can be pressed.
function renew(box, ...parts) {
  const buttons = () => [...box.querySelectorAll("button")];
  const place = buttons().indexOf(document.activeElement);
  box.replaceChildren(...parts);
  if (place >= 0) buttons().slice(place).find((one) => !one.disabled)?.focus({ preventScroll: true });
}

const stateOf = (step) => got[step]?.state ?? "ready";
const isDone = (step) => ["done", "refused"].includes(stateOf(step));

// -- moving

function go(step) {
  at = Math.max(0, Math.min(step, quiz.length ? END : END - 1));
  remember();
  draw();
  scroll();
}

// A step fills the screen, so the page's head makes room.
function scroll() {
  const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  find("head").scrollIntoView({ block: "start", behavior: calm ? "auto" : "smooth" });
}

// The address names the step, so that a link opens it.
function remember() {
  if (document.getElementById("vp-page")?.dataset.view !== "lesson") return;
  const query = new URLSearchParams({ view: "lesson", step: at + 1 });
  history.replaceState(null, "", `${location.pathname}?${query}`);
}

function goOn() {
  if (at < END && !isDone(at)) reveal();
  else go(at + 1);
}

function reveal() {
  if (busy >= 0 || at >= END || isDone(at)) return;
  const rest = stopped + 1000 - Date.now(); // the server still cancels what Stop left
  if (rest > 0) return void setTimeout(reveal, rest);
  [busy, begun] = [at, Date.now()];
  got[at] = { state: "running", doing: "The model starts", rows: [], frames: [], bills: [] };
  turn += 1;
  trigger("select", { step: at, turn });
  draw();
  scroll();
}

function stop() {
  if (busy < 0) return;
  document.querySelector("#vp-lesson-stop")?.click();
  stopped = Date.now();
  end("stopped");
}

// A run that ended without a result of its own.
function end(state) {
  if (busy >= 0) got[busy] = { ...got[busy], state, doing: "" };
  busy = -1;
  draw();
}

function receive(value) {
  if (value?.state === "ended") return end("unfinished");
  if (!value || value.step !== busy || value.turn !== turn) return;
  got[value.step] = value;
  if (value.state !== "running") busy = -1;
  if (value.step === at) draw();
  else drawDots();
}

function choose(number) {
  if (at >= END || isDone(at) || busy === at || number >= steps[at].predict.choices.length) return;
  said[at] = number;
  draw();
}

// -- one step

function draw() {
  const quizzing = at >= END, step = steps[at];
  find("step").hidden = quizzing;
  find("quiz").hidden = !quizzing;
  find("number").textContent = quizzing ? "" : `${at + 1}/${END} `;
  find("title").textContent = quizzing ? "Three questions" : step.title;
  drawDots();
  drawNav();
  if (quizzing) return drawQuiz();
  const found = got[at], state = stateOf(at), shown = found && state !== "ready";
  element.querySelector(".le").dataset.state = state;
  find("about").textContent = at === 0 && !shown ? `${about}` : "";
  find("question").textContent = `“${step.question}”`;
  find("say").textContent = shown ? "" : step.say;
  drawPrediction(step, shown);
  find("news").textContent = { running: `${found?.doing}…`, refused: found?.doing ?? "",
    stopped: "Stopped. Go on to run it again.", unfinished: "The run ended early; try again.",
  }[state] ?? "";
  tick();
  drawPictures(step, found);
  find("found").replaceChildren(...(shown ? results(found) : []));
  const told = isDone(at) && state === "done";
  find("told").replaceChildren(...(told ? step.told.map((line) => make("li", "", line)) : []));
  find("paper").textContent = told ? step.paper : "";
  find("try").hidden = !told;
  find("try").querySelector("span").textContent = step.try;
  find("notes").querySelector("span").textContent = step.notes;
}

// The seconds since a run began: they show that it goes on. Not part of what is read aloud.
function tick() {
  const seconds = busy === at ? Math.floor((Date.now() - begun) / 1000) : 0;
  find("seconds").textContent = seconds >= 1 ? `${seconds} s` : "";
}

function drawDots() {
  const names = [...steps.map((step) => step.title), ...(quiz.length ? ["Quiz"] : [])];
  if (find("dots").children.length !== names.length) {
    find("dots").replaceChildren(...names.map((name, number) => make("li", "",
      button("", number < END ? `${number + 1}` : "Quiz", () => go(number)))));
  }
  [...find("dots").children].forEach((node, number) => {
    const dot = node.firstChild, done = number < END && isDone(number);
    dot.setAttribute("aria-label", `${names[number]}${done ? ", done" : ""}`);
    dot.title = names[number];
    dot.toggleAttribute("data-done", done);
    if (number === at) dot.setAttribute("aria-current", "step");
    else dot.removeAttribute("aria-current");
  });
}

function drawNav() {
  const next = find("next"), waits = at < END && !isDone(at);
  next.textContent = waits ? (stateOf(at) === "running" ? "Running…" : "Reveal →")
    : at >= END - (quiz.length ? 0 : 1) ? "The end" : at === END - 1 ? "Quiz →" : "Next →";
  next.disabled = (waits && busy >= 0) || next.textContent === "The end";
  find("back").disabled = at === 0;
  find("stop").hidden = busy < 0;
}

function drawPrediction(step, shown) {
  const { ask, choices, right } = step.predict, box = find("predict");
  box.querySelector("legend").textContent = ask;
  const told = stateOf(at) === "done";
  box.toggleAttribute("data-told", told);
  renew(find("choices"), ...choices.map((words, number) => {
    const chosen = said[at] === number, mark = told && number === right ? " ✓" : "";
    const yours = told && chosen ? (number === right ? " your guess" : " ✗ your guess") : "";
    const node = button("le-choice", "", () => choose(number));
    node.append(make("kbd", "", `${number + 1}`), make("span", "", `${words}${mark}`),
      make("i", "", yours));
    node.setAttribute("aria-pressed", String(chosen));
    node.toggleAttribute("data-right", told && number === right);
    node.disabled = shown && stateOf(at) !== "stopped";
    return node;
  }));
}

// -- pictures and the slider

function placeOf(found) {
  const most = Math.max(0, (found?.frames?.length ?? 0) - 1);
  return Math.min(places[at] ?? found?.at ?? 0, most);
}

function drawPictures(step, found) {
  const frame = found?.frames?.[placeOf(found)];
  const pictures = frame?.pictures?.length ? frame.pictures
    : [{ src: step.picture, title: "", alt: `The picture of this step: ${step.question}` }];
  const box = find("pictures");
  while (box.children.length > pictures.length) box.lastChild.remove();
  pictures.forEach((picture, number) => {
    const node = box.children[number] ?? box.appendChild(
      make("figure", "", make("figcaption"), make("img"), make("div", "le-bar")));
    const [caption, image, bar] = node.children;
    caption.textContent = picture.title;
    if (image.getAttribute("src") !== picture.src) image.src = picture.src;
    image.alt = picture.alt;
    bar.hidden = !picture.bar;
    if (!picture.bar) return;
    const line = make("i");
    line.style.background = `linear-gradient(to right, ${picture.bar.colours.join(", ")})`;
    bar.replaceChildren(make("span", "", picture.bar.ends[0]), line,
      make("span", "", picture.bar.ends[1]), make("small", "", picture.bar.unit));
  });
  const slide = find("slide"), input = slide.querySelector("input");
  slide.hidden = !found?.slider || found.frames.length < 2;
  if (slide.hidden) return;
  input.max = found.frames.length - 1;
  input.value = placeOf(found);
  slide.querySelector("span").textContent = found.slider;
  slide.querySelector("b").textContent = frame.label;
  input.setAttribute("aria-valuetext", `${found.slider} ${frame.label}`);
}

function move(by) {
  const found = got[at];
  if (at >= END || find("slide").hidden) return false;
  places[at] = Math.max(0, Math.min(placeOf(found) + by, found.frames.length - 1));
  draw();
  return true;
}

// -- what was found

function results(found) {
  const parts = [];
  if (found.rows.length) parts.push(make("dl", "le-rows", ...found.rows.map(rowOf)));
  if (found.slider && found.frames.some((frame) => frame.rows.length)) parts.push(stripOf(found));
  parts.push(...(found.bills ?? []).map(billOf));
  if (found.table) parts.push(tableOf(found.table));
  return parts;
}

function verdictOf({ right, same }) {
  if (right !== null) return right ? ["right", "✓ right"] : ["wrong", "✗ wrong"];
  if (same === null) return ["", ""];
  return same ? ["right", "= as the full model"] : ["wrong", "≠ not as the full model"];
}

function rowOf(row) {
  const [kind, words] = verdictOf(row);
  const long = row.answer.length > 60 ? " le-long" : "";
  return make("div", kind, make("dt", "", row.name),
    make("dd", "", make("b", long, row.answer || "(nothing)"), make("i", "", words)),
    ...(row.stayed ? [make("small", "", row.stayed)] : []));
}

// The answers at every place of the slider; the chosen place is framed.
function stripOf(found) {
  const place = placeOf(found), table = make("table", "le-strip");
  table.append(make("caption", "", `Answers by “${found.slider}”`));
  const head = make("tr", "", make("td"));
  found.frames.forEach((frame) => {
    const cell = make("th", "", frame.label);
    cell.scope = "col";
    head.append(cell);
  });
  table.append(head);
  const count = Math.max(...found.frames.map((frame) => frame.rows.length));
  for (let row = 0; row < count; row++) {
    const line = make("tr"), name = make("th", "", found.frames[0].rows[row]?.name ?? "");
    name.scope = "row";
    line.append(name);
    found.frames.forEach((frame, number) => {
      const side = frame.rows[row], [kind, words] = side ? verdictOf(side) : ["", ""];
      const cell = make("td", kind);
      const pick = button("", side ? side.answer : "…", () => { places[at] = number; draw(); });
      pick.append(make("span", "", words.slice(0, 1)));
      pick.setAttribute("aria-label", `${found.slider} ${frame.label}: ${side?.answer ?? ""} ${words}`);
      pick.tabIndex = -1; // the slider does the same by keys
      cell.append(pick);
      if (number === place) cell.dataset.here = "";
      line.append(cell);
    });
    table.append(line);
  }
  return make("div", "le-scroll", table);
}

function billOf(bill) {
  const rows = bill.bars.map((bar) => {
    const share = `${Math.round(100 * bar.share)}%`, line = make("span", "le-share", make("i"));
    line.firstChild.style.width = share;
    return make("div", "", make("dt", "", bar.name), make("dd", "", make("small", "", bar.words),
      line, make("b", "", share)));
  });
  const title = make("p", "", make("b", "", bill.title), ": the picture's share");
  return make("div", "", title, make("dl", "le-bill", ...rows));
}

function tableOf({ head, rows }) {
  const line = (cells, name) => make("tr", "", ...cells.map((words, number) =>
    make(number ? name : "th", "", words)));
  return make("table", "le-table", make("caption", "", "Full model against pruned model"),
    make("thead", "", line(head, "th")), make("tbody", "", ...rows.map((row) => line(row, "td"))));
}

// -- the quiz

function drawQuiz() {
  const right = quiz.filter((one, number) => answers[number] === one.right).length;
  const guessed = steps.filter((step, number) => said[number] !== undefined && isDone(number));
  const hits = guessed.filter((step) => said[steps.indexOf(step)] === step.predict.right).length;
  const done = quiz.every((one, number) => answers[number] !== undefined);
  renew(find("quiz"), ...quiz.map((one, number) => {
    const answer = answers[number], told = answer !== undefined;
    const box = make("fieldset", "le-predict", make("legend", "", `${number + 1}. ${one.ask}`));
    box.toggleAttribute("data-told", told);
    const choices = one.choices.map((words, choice) => {
      const node = button("le-choice", "", () => { answers[number] = choice; draw(); });
      const mark = told && choice === one.right ? " ✓" : told && choice === answer ? " ✗" : "";
      node.append(make("span", "", words + mark));
      node.setAttribute("aria-pressed", String(choice === answer));
      node.toggleAttribute("data-right", told && choice === one.right);
      node.disabled = told;
      return node;
    });
    box.append(make("div", "le-choices", ...choices));
    if (told) box.append(make("p", "le-why", one.why));
    return box;
  }), make("p", "le-score", done ? `${right} of ${quiz.length} right.` +
    (guessed.length ? ` Your guesses in the lesson: ${hits} of ${guessed.length}.` : "") : ""));
}

// -- keys: a presenter's clicker sends PageDown and PageUp

function onKey(event) {
  if (document.getElementById("vp-page")?.dataset.view !== "lesson") return;
  if (event.altKey || event.ctrlKey || event.metaKey || event.defaultPrevented) return;
  const { target } = event;
  const typing = target.matches?.("textarea, select, input:not([type=range])");
  // A press on the tab "Lesson" leaves the focus there; these keys are the tab's own.
  const switching = target.matches?.("[role=tab]") && /^Arrow|^Enter$|^ $/.test(event.key);
  const sliding = target.matches?.("input[type=range]");
  // On a choice that is made already, Enter goes on.
  const pressing = target.matches?.("button:not(.le-choice[aria-pressed=true]), a, summary");
  if (typing || switching) return;
  const digit = /^[1-9]$/.test(event.key) ? Number(event.key) - 1 : -1;
  if (event.key === "PageDown" || (event.key === "ArrowRight" && !sliding)) goOn();
  else if (event.key === "PageUp" || (event.key === "ArrowLeft" && !sliding)) go(at - 1);
  else if ((event.key === "Enter" || event.key === " ") && !pressing && !sliding) goOn();
  else if (event.key === "ArrowUp" && !sliding) { if (!move(1)) return; }
  else if (event.key === "ArrowDown" && !sliding) { if (!move(-1)) return; }
  else if (digit >= 0 && at < END) choose(digit);
  else if (event.key === "n") notes();
  else if (event.key === "t" && !find("try").hidden) attempt();
  else if (event.key === "Escape" && busy >= 0) stop();
  else return;
  event.preventDefault();
}

function notes() {
  const hidden = find("notes").toggleAttribute("hidden");
  find("note").setAttribute("aria-pressed", String(!hidden));
  if (!hidden) find("notes").scrollIntoView({ block: "nearest" }); // they stand below a long step
}

function attempt() {
  trigger("submit", { step: at });
  window.vp?.view(steps[at].view);
  window.scrollTo(0, 0);
}

function copyLink() {
  const query = new URLSearchParams({ view: "lesson", step: at + 1 });
  window.vp?.copy(`${location.origin}${location.pathname}?${query}`, find("link"));
}

document.addEventListener("keydown", onKey);
setInterval(() => busy >= 0 && tick(), 1000);
find("back").addEventListener("click", () => go(at - 1));
find("next").addEventListener("click", goOn);
find("stop").addEventListener("click", stop);
find("note").addEventListener("click", notes);
find("link").addEventListener("click", copyLink);
find("try").querySelector("button").addEventListener("click", attempt);
find("slide").querySelector("input").addEventListener("input", (event) => {
  places[at] = Number(event.target.value);
  draw();
});
const asked = Number(new URLSearchParams(location.search).get("step"));
if (Number.isInteger(asked) && asked >= 1) at = Math.min(asked - 1, quiz.length ? END : END - 1);
watch("value", () => receive(props.value));
element.querySelector(".le").setAttribute("aria-label", `${title}, ${minutes} minutes`);
draw();
