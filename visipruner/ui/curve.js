// The view "Cost and accuracy": clicks in the plot, and the plot as a PNG.
window.vpCurve = {
  // Calls back when the view is shown, also if it is shown already.
  whenOpened(opened) {
    const page = document.getElementById("vp-page");
    const look = () => {
      if (page.dataset.view !== "curve") return;
      watch.disconnect();
      opened();
    };
    const watch = new MutationObserver(look);
    watch.observe(page, { attributeFilter: ["data-view"] });
    look();
  },

  // The form holds a point's settings now: run it where its answer is shown.
  run() {
    vp.view("compare");
    scrollTo(0, 0); // the plot may have stood far below
    document.getElementById("vp-run").click();
  },

  // Draws an SVG file twice as large, for sharp letters, and saves it as PNG.
  async savePicture(file) {
    if (!file) return;
    const picture = new Image();
    picture.src = `data:${file.type};base64,${file.data}`;
    await picture.decode();
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [2 * picture.width, 2 * picture.height];
    canvas.getContext("2d").drawImage(picture, 0, 0, canvas.width, canvas.height);
    const data = canvas.toDataURL("image/png").split(",")[1];
    vp.save({ name: file.name, type: "image/png", data });
  },
};

// Gradio passes no clicks on from a plot. A point's click presses its button in the table. The plot's
// element is new whenever gradio builds the plot again, so this watches the page.
function pressPoints() {
  const known = new WeakSet();
  new MutationObserver(() => {
    const plot = document.querySelector("#vp-curve-plot .js-plotly-plot");
    if (!plot?.on || known.has(plot)) return;
    known.add(plot);
    plot.on("plotly_click", ({ points }) => {
      const number = points[0]?.customdata?.[0];
      document.querySelector(`.vp-points button[data-point="${number}"]`)?.click();
    });
  }).observe(document.body, { subtree: true, childList: true, attributeFilter: ["class"] });
}

if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", pressPoints);
else pressPoints();
