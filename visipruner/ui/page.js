// What the browser does on its own: modes, downloads, links, and words for screen readers.
window.vp = {
  projector() {
    vp.toggle("projector", document.getElementById("vp-page"));
    window.dispatchEvent(new Event("resize")); // plots fit themselves into the new width
  },

  dark() {
    vp.toggle("dark", document.body);
  },

  // The button tells whether its mode is on, to eyes and to screen readers.
  toggle(mode, place) {
    const on = place.classList.toggle(mode);
    document.getElementById("vp-" + mode)?.setAttribute("aria-pressed", String(on));
  },

  reset() {
    location.assign(location.pathname);
  },

  show(selector) {
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    document.querySelector(selector)?.scrollIntoView({ behavior: calm ? "auto" : "smooth" });
  },

  // On a narrow screen the answers stand below the form, so go there.
  started() {
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

  link(query) {
    return location.origin + location.pathname + "?" + query;
  },

  // A page that is served without https, as in a class room, has no clipboard but the old way.
  async copy(link) {
    const box = document.querySelector(".vp-link textarea, .vp-link input");
    box?.select();
    if (navigator.clipboard) await navigator.clipboard.writeText(link);
    else document.execCommand("copy");
    const button = document.getElementById("vp-copy"), words = button.textContent;
    button.textContent = `✓ ${words}`;
    setTimeout(() => { button.textContent = words; }, 1500);
  },
};

// One lasting live region: gradio replaces its HTML, which screen readers do not announce.
function announce() {
  const region = document.createElement("p");
  region.setAttribute("role", "status");
  region.className = "vp-unseen";
  document.body.append(region);
  new MutationObserver(() => {
    const line = document.querySelector("[data-say]");
    if (!line || region.dataset.key === line.dataset.say) return;
    region.dataset.key = line.dataset.say;
    region.textContent = line.textContent;
  }).observe(document.body, { subtree: true, childList: true, characterData: true });
}

// Before the first run, the chosen picture stands large under the grid of patches.
function showPatches() {
  new MutationObserver(() => {
    const seen = document.querySelector(".vp-intro img");
    const source = document.querySelector(".vp-picture img")?.getAttribute("src");
    if (!seen || seen.getAttribute("src") === (source ?? null)) return;
    if (source) seen.src = source;
    else seen.removeAttribute("src");
  }).observe(document.body, { subtree: true, childList: true, attributeFilter: ["src"] });
}

function ready() {
  announce();
  showPatches();
}

if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", ready);
else ready();
