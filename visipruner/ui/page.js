// What the browser does on its own: modes, downloads, links, and words for screen readers.
window.vp = {
  projector() {
    vp.remember("projector", document.getElementById("vp-page").classList.toggle("projector"));
  },

  dark() {
    vp.remember("dark", document.body.classList.toggle("dark"));
  },

  // Modes outlive a reset, as long as the tab.
  remember(mode, on) {
    sessionStorage.setItem(`vp-${mode}`, on ? "on" : "off");
  },

  restore() {
    const said = (mode) => sessionStorage.getItem(`vp-${mode}`);
    if (said("projector") === "on") document.getElementById("vp-page").classList.add("projector");
    if (said("dark")) document.body.classList.toggle("dark", said("dark") === "on");
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

  // Whether Stop ended the run: its state may be older, or newer, than the click.
  stop(state) {
    vp.stopped = true;
    return vp.ended(state);
  },

  // A run has ended without a result.
  unfinished(state) {
    vp.ended(state);
    return vp.stopped && isBusy(state) ? "stopped" : state;
  },

  // One that ended before it was shown left the page as it was: an answer to the form before.
  ended(state) {
    if (["waiting", "refused"].includes(state)) vp.asked = vp.askedBefore;
    vp.showOlder();
    return state;
  },

  // Where the run stands (run_state.py); the style sheet goes by it.
  state(state) {
    const shown = document.querySelector(".vp-outputs").dataset;
    if (state === "shown" || shown.run === "shown") shown.run = state;
    return state;
  },

  // The same for a lesson, in the box that it fills.
  lesson(box, state, values = []) {
    const element = document.getElementById(box);
    if (element) element.dataset.run = state;
    return values;
  },

  // Whether the form still says what the run was asked that the page shows.
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

  // On a narrow screen the answers stand below the form, so go there.
  started(values) {
    vp.stopped = false;
    vp.askedBefore = vp.asked;
    vp.form = formKey(values);
    vp.asked = { form: vp.form, picture: shownPicture() };
    vp.showOlder();
    const outputs = document.querySelector(".vp-outputs");
    if (outputs?.getBoundingClientRect().top > window.innerHeight * 0.6) vp.show(".vp-outputs");
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

  // The number of a scene counts when its box is left, if it was changed there.
  enterSeed(seed) {
    vp.seed = seed;
  },

  leaveSeed(seed) {
    return seed === vp.seed ? null : seed;
  },

  enterModel(model) {
    vp.model = model;
  },

  // Another model is asked for one word in its own way.
  newModel(on, question, model, pleas, own) {
    const same = model === vp.model;
    vp.model = model;
    return same ? [question, on] : vp.oneWord(on, question, model, pleas, own);
  },

  // A level while it is typed: the last one that could be meant.
  within(level) {
    if (typeof level === "number" && level >= 0 && level <= 1) vp.level = level;
    return vp.level ?? 0.5;
  },

  // The question, asking for one word in the model's own way or for it no longer; and whether it
  // does, for nothing can be asked of no question.
  oneWord(on, question, model, pleas, own) {
    const { bare } = withoutPlea(question, pleas), asked = bare.trim();
    if (!on || !asked) return [bare, false];
    const mark = /[\p{L}\p{N}]$/u.test(asked) ? "?" : "";
    return [`${asked}${mark} ${own[model] ?? own[""]}`, true];
  },

  // What the bundled model is asked, as another model is asked for one word.
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

  async copy(link) {
    const button = document.getElementById("vp-copy");
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

function isBusy(state) {
  return ["waiting", "shown"].includes(state);
}

// All that a run is asked, to be compared, but its picture: the first of `Controls.form`.
function formKey([picture, ...others]) {
  return JSON.stringify(others);
}

// What eyes see: the form's own events may come late, and then tell of the picture before.
function shownPicture() {
  return document.querySelector(".vp-picture img")?.getAttribute("src") ?? "";
}

// As `bare` does on the server: the question without its plea for one word, and whether it had one.
function withoutPlea(question, pleas) {
  const words = pleas.map((plea) => plea.replace(/\.$/, "")).join("|");
  const plea = new RegExp(`(^|[\\s,;:]+)(${words})[^\\p{L}\\p{N}_]*$`, "iu");
  let bare = question ?? "";
  while (plea.test(bare)) bare = bare.replace(plea, "");
  return { bare, asked: bare !== (question ?? "") };
}

// A page that is served without https, as in a classroom, has no other clipboard. Gradio's box is
// disabled, and what is selected in it is not copied.
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

// One lasting live region: gradio replaces its HTML, which screen readers do not announce.
function announce() {
  const region = document.createElement("p");
  region.setAttribute("role", "status");
  region.className = "vp-unseen";
  document.body.append(region);
  let said = new Set();
  new MutationObserver(() => {
    // What the style sheet hides, as the words of a run that has ended, says nothing yet.
    const lines = [...document.querySelectorAll("[data-say]")].filter((line) =>
      line.getClientRects().length);
    const news = lines.find((line) => !said.has(line.dataset.say));
    said = new Set(lines.map((line) => line.dataset.say));
    if (news) region.textContent = news.innerText;
  }).observe(document.body, {
    subtree: true, childList: true, characterData: true, attributeFilter: ["data-run"],
  });
}

// However another picture came, the verdict on the page is not about it.
function watchPicture() {
  let seen = shownPicture();
  new MutationObserver(() => {
    if (seen === shownPicture()) return;
    seen = shownPicture();
    vp.showOlder();
  }).observe(document.body, { subtree: true, childList: true, attributeFilter: ["src"] });
}

// The buttons tell whether what they switch is on, to eyes and to screen readers. The page itself is
// watched, for dark may be the system's choice.
function showModes() {
  new MutationObserver(() => {
    for (const mode of ["dark", "projector"]) {
      const on = Boolean(document.querySelector(`body.${mode}, #vp-page.${mode}`));
      document.getElementById("vp-" + mode)?.setAttribute("aria-pressed", String(on));
    }
    const open = Boolean(document.querySelector(".vp-charts.vp-open"));
    document.getElementById("vp-fold")?.setAttribute("aria-expanded", String(open));
  }).observe(document.body, { subtree: true, childList: true, attributeFilter: ["class"] });
}

// Plotly writes its type in pixels, so for the last row its charts are laid out anew. A chart's
// `meta` says how much larger than usual it is; one that was drawn anew has none. The height is
// given to the element, for Plotly forgets one of the layout's whenever the window changes.
function fitCharts() {
  new MutationObserver(() => {
    const size = document.querySelector("#vp-page.projector") ? 1.5 : 1;
    for (const chart of document.querySelectorAll(".vp-charts .js-plotly-plot")) {
      const layout = chart.layout, by = size / (layout?.meta ?? 1);
      if (!layout || by === 1) continue;
      const { font, title, margin, annotations = [] } = layout;
      const shifts = annotations.map((mark, i) => [`annotations[${i}].yshift`, mark.yshift * by]);
      chart.style.height = `${chart._fullLayout.height * by}px`;
      delete layout.height;
      window.Plotly.relayout(chart, {
        meta: size,
        autosize: true,
        "font.size": font.size * by,
        "title.font.size": title.font.size * by,
        "title.subtitle.font.size": title.subtitle.font.size * by,
        "margin.l": margin.l * by,
        "margin.t": margin.t * by,
        "margin.b": margin.b * by,
        ...Object.fromEntries(shifts),
      });
    }
  }).observe(document.body, { subtree: true, childList: true, attributeFilter: ["class"] });
}

// Gradio's menus open when Tab or Shift is pressed in them, and stay open when it has left them.
function closeMenus() {
  const inMenu = (event) => event.target.matches?.("input[role=combobox]");
  document.addEventListener("keydown", (event) => {
    if ((event.key === "Tab" || event.key === "Shift") && inMenu(event)) event.stopPropagation();
  }, true);
}

// A camera or a clipboard that is not there, or not allowed: gradio says nothing about it.
function explainDevices() {
  window.addEventListener("unhandledrejection", (event) => {
    const note = document.getElementById("vp-device");
    const words = note.dataset[event.reason?.name?.toLowerCase()];
    if (!words) return;
    [note.textContent, note.dataset.say, note.hidden] = [words, words, false];
    event.preventDefault();
  });
  document.addEventListener("click", ({ target }) => {
    if (!target.closest(".vp-picture")) document.getElementById("vp-device").hidden = true;
  });
}

function ready() {
  announce();
  closeMenus();
  explainDevices();
  watchPicture();
  showModes();
  fitCharts();
}

if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", ready);
else ready();
