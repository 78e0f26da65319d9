// What the browser watches by itself: words for screen readers, modes, sizes, keys, devices.
// Everything that an event of the page calls by name is in page.js.

// A permanent live region: gradio replaces its HTML, and screen readers do not announce that.
function announce() {
  const region = document.createElement("p");
  region.setAttribute("role", "status");
  region.className = "vp-unseen";
  document.body.append(region);
  let said = new Set();
  new MutationObserver(() => {
    // Skip what the style sheet hides, such as the words of a run that has ended.
    const lines = [...document.querySelectorAll("[data-say]")].filter((line) =>
      line.getClientRects().length);
    const news = lines.find((line) => !said.has(line.dataset.say));
    said = new Set(lines.map((line) => line.dataset.say));
    if (news) region.textContent = news.innerText;
  }).observe(document.body, {
    subtree: true, childList: true, characterData: true, attributeFilter: ["data-run"],
  });
}

// When the picture changes in any way, the verdict on the page no longer fits it.
function watchPicture() {
  let seen = shownPicture();
  new MutationObserver(() => {
    if (seen === shownPicture()) return;
    seen = shownPicture();
    vp.showOlder();
  }).observe(document.body, { subtree: true, childList: true, attributeFilter: ["src"] });
}

// The buttons show to eyes and screen readers whether their mode is on. This watches the page,
// because the system may choose the dark mode.
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

// Plotly sets its type in pixels, so projector mode lays its charts out again. A chart's `meta` is
// its current scale; a newly drawn chart has none. The element gets the height, because Plotly
// loses the layout's height whenever the window changes.
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

// Says in "data-above" and "data-below" where the form can be scrolled; the style sheet shows it.
function hintScrolling() {
  const form = () => document.querySelector(".vp-inputs");
  const hint = () => {
    const column = form();
    if (!column) return;
    const below = column.scrollHeight - column.clientHeight - column.scrollTop;
    column.toggleAttribute("data-above", column.scrollTop > 4);
    column.toggleAttribute("data-below", below > 4);
    // Below the head the form reaches beyond the window.
    const hidden = Math.max(0, column.getBoundingClientRect().bottom - window.innerHeight);
    column.style.setProperty("--hidden", `${hidden}px`);
  };
  window.addEventListener("scroll", hint, { passive: true });
  window.addEventListener("resize", hint);
  const watch = (column) => {
    column.addEventListener("scroll", hint, { passive: true });
    const sizes = new ResizeObserver(hint);
    const all = () => {
      sizes.disconnect();
      for (const one of [column, ...column.children]) sizes.observe(one); // it tells sizes now, too
    };
    new MutationObserver(all).observe(column, { childList: true });
    all();
  };
  const built = new MutationObserver(() => {
    if (!form()) return;
    built.disconnect();
    watch(form());
  });
  built.observe(document.body, { subtree: true, childList: true });
}

// Gradio's menus open when Tab or Shift is pressed in them, and stay open when the focus leaves.
function closeMenus() {
  const inMenu = (event) => event.target.matches?.("input[role=combobox]");
  document.addEventListener("keydown", (event) => {
    if ((event.key !== "Tab" && event.key !== "Shift") || !inMenu(event)) return;
    event.stopPropagation();
    // A list that is long enough to scroll would be a stop of its own for Tab.
    document.querySelectorAll("ul[role=listbox]").forEach((list) => { list.tabIndex = -1; });
  }, true);
}

// The tabs of the head, as the ARIA pattern has them: arrow keys, Home and End move and choose.
function switchViews() {
  const tabOf = (event) => event.target.closest?.(".vp-tabs [role=tab]");
  document.addEventListener("click", (event) => {
    const tab = tabOf(event);
    if (tab) vp.view(tab.dataset.view);
  });
  document.addEventListener("keydown", (event) => {
    const tab = tabOf(event), all = [...(tab?.parentElement.children ?? [])];
    const at = all.indexOf(tab), last = all.length - 1;
    const to = { ArrowLeft: at ? at - 1 : last, ArrowRight: at < last ? at + 1 : 0,
      Home: 0, End: last }[event.key];
    if (!tab || to === undefined) return;
    event.preventDefault();
    vp.view(all[to].dataset.view).focus();
  });
}

// Gradio stops an event by the name that the server gave it. While that name is still on its way,
// it would ask to stop "null", which stops nothing: so such a request waits for the name.
function nameStops() {
  const send = window.fetch, names = new Map(); // of the newest events, by their `fn_index`
  window.fetch = async (url, options) => {
    const [, what] = /\/(join|cancel|reset)$/.exec(String(url).split("?")[0]) ?? [];
    if (!what || typeof options?.body !== "string") return send(url, options);
    const body = JSON.parse(options.body);
    if (what === "join") {
      const answer = send(url, options);
      const name = answer.then((one) => one.clone().json()).then((one) => one.event_id);
      names.set(body.fn_index, name.catch(() => ""));
      return answer;
    }
    body.event_id ??= (await names.get(body.fn_index)) ?? "";
    return send(url, { ...options, body: JSON.stringify(body) });
  };
}

function noteStops() {
  const note = ({ target }) => {
    if (target.closest?.("button[id$=-stop]")) stoppedAt = performance.now();
  };
  document.addEventListener("click", note, true);
}

function stopAgain(button) {
  setTimeout(() => document.getElementById(button).click());
  return new Promise(() => {});
}

// Gradio does not report a camera or clipboard that is missing or forbidden.
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
  switchViews();
  nameStops();
  noteStops();
  explainDevices();
  watchPicture();
  showModes();
  fitCharts();
  hintScrolling();
}

if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", ready);
else ready();
