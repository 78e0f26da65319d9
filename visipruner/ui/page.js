// What the page's events call by name: views, a run's state, downloads, links, the form's words.
const REST = 1000; // milliseconds
let stoppedAt = -Infinity;
window.vp = {
  projector() {
    vp.remember("projector", document.getElementById("vp-page").classList.toggle("projector"));
  },

  dark() {
    vp.remember("dark", document.body.classList.toggle("dark"));
  },

  // Modes survive a reset, until the tab closes.
  remember(mode, on) {
    sessionStorage.setItem(`vp-${mode}`, on ? "on" : "off");
  },

  restore() {
    const said = (mode) => sessionStorage.getItem(`vp-${mode}`);
    if (said("projector") === "on") document.getElementById("vp-page").classList.add("projector");
    if (said("dark")) document.body.classList.toggle("dark", said("dark") === "on");
    vp.view(new URLSearchParams(location.search).get("view"));
  },

  // Shows a view, by its name in tabs.py. Nothing is asked of the server.
  view(name) {
    const tabs = [...document.querySelectorAll(".vp-tabs [role=tab]")];
    const chosen = tabs.find((tab) => tab.dataset.view === name) ?? tabs[0];
    for (const tab of tabs) {
      tab.setAttribute("aria-selected", String(tab === chosen));
      tab.tabIndex = tab === chosen ? 0 : -1;
      const panel = document.getElementById(tab.getAttribute("aria-controls"));
      panel?.setAttribute("role", "tabpanel");
      panel?.setAttribute("aria-labelledby", tab.id);
    }
    document.getElementById("vp-page").dataset.view = chosen.dataset.view;
    dispatchEvent(new Event("resize")); // a chart that was hidden takes its width now
    return chosen;
  },

  reset() {
    location.assign(location.pathname);
  },

  // On a phone the charts are folded away.
  fold() {
    document.querySelector(".vp-charts").classList.toggle("vp-open");
  },

  show(selector) {
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    document.querySelector(selector)?.scrollIntoView({ behavior: calm ? "auto" : "smooth" });
  },

  // Whether Stop ended the run: the state may be older or newer than the click.
  stop(state) {
    vp.stopped = true;
    return vp.ended(state);
  },

  // A saved run takes the place of what runs, which then says nothing of its end.
  replace(state) {
    vp.replaced = true;
    return vp.stop(state);
  },

  // The run ended without a result.
  unfinished(state) {
    vp.ended(state);
    if (vp.replaced) return "done";
    return vp.stopped && isBusy(state) ? "stopped" : state;
  },

  // A run that ended before it was shown left the page unchanged: it answers the form before.
  ended(state) {
    if (["waiting", "refused"].includes(state)) vp.asked = vp.askedBefore;
    vp.showOlder();
    return state;
  },

  // Stores the run's state (run_state.py), which the style sheet reads.
  state(state) {
    const shown = document.querySelector(".vp-outputs").dataset;
    if (state === "shown" || shown.run === "shown") shown.run = state;
    return state;
  },

  // When a run may begin. Stop closes the page's stream of news; when the server notices, it
  // cancels all that this page runs, a new run too. So a run waits for a second after any Stop.
  // A Stop in that second means this run, which then never begins: `left` says so on the page.
  async rested(values, left = () => {}) {
    const [before, rest] = [stoppedAt, stoppedAt + REST - performance.now()];
    if (rest > 0) await new Promise((go) => setTimeout(go, rest));
    if (before === stoppedAt) return values;
    left();
    return new Promise(() => {});
  },

  // A run's second event follows its first one, even if Stop came just before: then it must not,
  // and Stop, pressed again, says so on the page.
  goesOn: (values) => (vp.stopped ? stopAgain("vp-stop") : values),
  goesOnIn: (view, values) =>
    "stopped" in columnOf(view).dataset ? stopAgain(`vp-${view}-stop`) : values,

  // The same for another view, in its own column (beside.py).
  stateOf(view, state) {
    const shown = columnOf(view).dataset;
    if (state === "shown" || shown.run === "shown") shown.run = state;
    return state;
  },

  // On a phone the results of a view stand below the form.
  begun(view) {
    const column = columnOf(view), begins = column.querySelector(".vp-begins");
    delete column.dataset.stopped;
    if (begins.getBoundingClientRect().top > window.innerHeight * 0.6) {
      vp.show(`#${column.id} .vp-begins`);
    }
  },

  stopIn(view, state) {
    columnOf(view).dataset.stopped = "";
    return state;
  },

  unfinishedIn(view, state) {
    return "stopped" in columnOf(view).dataset && isBusy(state) ? "stopped" : state;
  },

  // The budget as a share, while the slider moves.
  budget(tokens) {
    const most = Number(document.querySelector("#vp-budget input[type=range]")?.max);
    const line = document.querySelector("#vp-budget-share b");
    if (!line || !most || typeof tokens !== "number") return;
    line.textContent = line.textContent.replace(/[\d.]+%/, `${Math.round((100 * tokens) / most)}%`);
  },

  // The run's state of a lesson, in the lesson's box.
  lesson(box, state, values = []) {
    const element = document.getElementById(box);
    if (element) element.dataset.run = state;
    return values;
  },

  // Whether the form still equals the form of the run on the page.
  changed(values) {
    vp.form = formKey(values);
    vp.showOlder();
  },

  showOlder() {
    const note = document.getElementById("vp-older");
    if (!note) return; // the page is still being built
    const asked = document.querySelector(".vp-verdict") && vp.asked;
    const picture = asked && asked.picture !== shownPicture();
    const older = picture || (asked && asked.form !== vp.form);
    const outputs = document.querySelector(".vp-outputs").classList;
    outputs.toggle("vp-isolder", Boolean(older));
    outputs.toggle("vp-otherpicture", Boolean(picture));
    const words = picture ? note.dataset.picture : older ? note.dataset.form : "";
    if (note.textContent === words) return;
    note.hidden = !older;
    if (older) note.dataset.say = words;
    else delete note.dataset.say;
    note.textContent = words;
  },

  // On a narrow screen the answers stand below the form, so scroll there.
  started(values) {
    vp.view("compare"); // Enter in the question also runs from another view
    vp.stopped = vp.replaced = false;
    vp.askedBefore = vp.asked;
    vp.form = formKey(values);
    vp.asked = { form: vp.form, picture: shownPicture() };
    vp.showOlder();
    const outputs = document.querySelector(".vp-outputs");
    if (outputs?.getBoundingClientRect().top > window.innerHeight * 0.6) vp.show(".vp-outputs");
  },

  // A run from a file answers no form, so no change of the form makes it older.
  opened() {
    vp.asked = vp.askedBefore = undefined;
    vp.showOlder();
    vp.show(".vp-outputs");
  },

  save(file) {
    if (!file) return;
    const bytes = Uint8Array.from(atob(file.data), (letter) => letter.charCodeAt(0));
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([bytes], { type: file.type }));
    link.download = file.name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  },

  // A scene number counts when its box loses focus, if it was changed.
  enterSeed(seed) {
    vp.seed = seed;
  },

  leaveSeed(seed) {
    return seed === vp.seed ? null : seed;
  },

  enterModel(model) {
    vp.model = model;
  },

  // Each model has its own request for one word.
  newModel(on, question, model, pleas, own) {
    const same = model === vp.model;
    vp.model = model;
    return same ? [question, on] : vp.oneWord(on, question, model, pleas, own);
  },

  // The level during typing: the last valid one.
  within(level) {
    if (typeof level === "number" && level >= 0 && level <= 1) vp.level = level;
    return vp.level ?? 0.5;
  },

  // [the question with the model's own request for one word, or without one; whether it has one].
  // An empty question gets none.
  oneWord(on, question, model, pleas, own) {
    const { bare } = withoutPlea(question, pleas), asked = bare.trim();
    if (!on || !asked) return [bare, false];
    const mark = /[\p{L}\p{N}]$/u.test(asked) ? "?" : "";
    return [`${asked}${mark} ${own[model] ?? own[""]}`, true];
  },

  // The bundled model's question, with another model's request for one word.
  inOwnWords(question, model, pleas, own) {
    const { asked } = withoutPlea(question, pleas);
    return model in own ? question : vp.oneWord(asked, question, model, pleas, own)[0];
  },

  asksOneWord(question, pleas) {
    return withoutPlea(question, pleas).asked;
  },

  // The link, and the script that asks this page, with the address that it has here.
  here(query, script) {
    const address = location.origin + location.pathname;
    return [address + "?" + query, script.replace(/Client\("[^"]*"\)/, `Client("${address}")`)];
  },

  async copy(link, button = document.getElementById("vp-copy")) {
    try {
      await navigator.clipboard.writeText(link);
    } catch {
      if (!copyTheOldWay(link, button)) return;
    }
    button.dataset.words ??= button.textContent; // a second press meets the tick
    button.textContent = `✓ ${button.dataset.words}`;
    setTimeout(() => { button.textContent = button.dataset.words; }, 1500);
  },
};

function columnOf(view) {
  return document.getElementById(`vp-view-${view}`);
}

function isBusy(state) {
  return ["waiting", "shown"].includes(state);
}

// The form as text, to compare. It leaves out the picture, the first of `Controls.form`.
function formKey([picture, ...others]) {
  return JSON.stringify(others);
}

// What is visible: the form's own events may come late, with the picture before.
function shownPicture() {
  return document.querySelector(".vp-picture img")?.getAttribute("src") ?? "";
}

// As `bare` on the server: the question without its request for one word, and whether it had one.
function withoutPlea(question, pleas) {
  const words = pleas.map((plea) => plea.replace(/\.$/, "")).join("|");
  const plea = new RegExp(`(^|[\\s,;:]+)(${words})[^\\p{L}\\p{N}_]*$`, "iu");
  let bare = question ?? "";
  while (plea.test(bare)) bare = bare.replace(plea, "");
  return { bare, asked: bare !== (question ?? "") };
}

// Fallback for pages without https, as in a classroom, which have no clipboard API. Gradio's box is
// disabled, and a browser does not copy a selection in a disabled box.
function copyTheOldWay(words, focused) {
  const box = document.createElement("textarea");
  box.value = words;
  box.style.position = "fixed"; // the page must not scroll to it
  document.body.append(box);
  box.select();
  const copied = document.execCommand("copy");
  box.remove();
  focused.focus();
  return copied;
}
