// Draws the picture and the state of its patches on a canvas.

function heatColour(share, stops) {
  const at = Math.min(Math.max(share, 0), 1) * (stops.length - 1);
  const low = Math.min(Math.floor(at), stops.length - 2), part = at - low;
  const channel = (stop, i) => parseInt(stop.slice(1 + 2 * i, 3 + 2 * i), 16);
  const mix = (i) => channel(stops[low], i) * (1 - part) + channel(stops[low + 1], i) * part;
  return `rgb(${[0, 1, 2].map((i) => Math.round(mix(i))).join(", ")})`;
}

function shareOf(value, scale) {
  return (Math.log10(Math.max(value, 1e-12)) - scale[0]) / (scale[1] - scale[0]);
}

// Merges spans [from, to] into the fewest that cover the same.
function joined(spans) {
  const found = [];
  for (const [from, to] of spans.sort((a, b) => a[0] - b[0])) {
    const last = found[found.length - 1];
    if (last && from <= last[1]) last[1] = Math.max(last[1], to);
    else found.push([from, to]);
  }
  return found;
}

// A copy with less colour, computed by hand because Safari's canvas has no filters.
function paleCopy(image, without) {
  const copy = document.createElement("canvas");
  copy.width = image.naturalWidth;
  copy.height = image.naturalHeight;
  const context = copy.getContext("2d");
  context.drawImage(image, 0, 0);
  const pixels = context.getImageData(0, 0, copy.width, copy.height);
  for (let i = 0; i < pixels.data.length; i += 4) {
    const light = 0.3 * pixels.data[i] + 0.59 * pixels.data[i + 1] + 0.11 * pixels.data[i + 2];
    for (let j = i; j < i + 3; j++) pixels.data[j] += without * (light - pixels.data[j]);
  }
  context.putImageData(pixels, 0, 0);
  return copy;
}

const MERGED = 0.5; // strength of the veil over merged patches; over dropped ones it is 1

class Painter {
  constructor(canvas, palette) {
    this.canvas = canvas;
    this.palette = palette;
    this.context = canvas.getContext("2d");
    this.images = null; // one per sheet
    this.grey = null; // under the heat map
    this.pale = null; // under the veil: dropped patches can still be recognised
  }

  load(sources, then) {
    const images = sources.map(() => new Image());
    let missing = images.length;
    this.sources = sources;
    const loaded = () => {
      missing -= 1;
      if (missing || this.sources !== sources) return; // or a newer value is loading
      this.images = images;
      this.grey = images.map((image) => paleCopy(image, 1));
      this.pale = images.map((image) => paleCopy(image, 0.5));
      then();
    };
    images.forEach((image, i) => { image.onload = loaded; image.src = sources[i]; });
  }

  // Gives the canvas as many pixels as it has on the screen.
  fit(width, aspect) {
    const ratio = window.devicePixelRatio || 1;
    const wide = Math.max(1, Math.round(width * ratio));
    const high = Math.max(1, Math.round(wide / aspect));
    if (this.canvas.width !== wide || this.canvas.height !== high) {
      this.canvas.width = wide;
      this.canvas.height = high;
    }
    this.ratio = ratio;
  }

  // Left, top, right and bottom on the canvas, in whole pixels.
  edges([left, top, right, bottom]) {
    const { width, height } = this.canvas, { plane } = this.story;
    const across = (x) => Math.round((x * width) / plane.width);
    const down = (y) => Math.round((y * height) / plane.height);
    return [across(left), down(top), across(right), down(bottom)];
  }

  box(patch) {
    const [left, top, right, bottom] = this.edges(this.story.boxes[patch]);
    return [left, top, right - left, bottom - top];
  }

  // The sheets' pictures, in one colouring.
  paste(images) {
    this.story.sheets.forEach(({ frame }, i) => {
      const [left, top, right, bottom] = this.edges(
        [frame.left, frame.top, frame.right, frame.bottom]);
      this.context.drawImage(images[i], left, top, right - left, bottom - top);
    });
  }

  // The width of the narrowest sheet's boxes, in canvas pixels.
  cell() {
    const widths = this.story.sheets.map(({ own, frame, size }) => {
      const [first] = Object.values(own);
      return (first ? first[2] - first[0] : size[0]) * frame.scale;
    });
    return Math.min(...widths) * this.canvas.width / this.story.plane.width;
  }

  // view: {layer, mode, cursor, hover, fading: flags of the layer before, progress 0..1}
  draw(story, view) {
    this.story = story;
    const { context, canvas } = this, heat = story.heat(view.layer, view.mode);
    context.clearRect(0, 0, canvas.width, canvas.height);
    if (!this.images) return;
    this.paste(heat ? this.grey : this.images);
    if (!story.placed.length) return;
    if (heat) this.paintHeat(heat);
    const present = story.present(view.layer), staying = story.staying(view.layer);
    if (present) this.paintGone(present, view, heat && heat.values);
    if (present && staying) this.paintLeaving(present, staying, heat);
    this.paintPadding(story.padding || [], present);
    this.paintGrid();
    const chosen = staying && staying.includes(1) ? staying : present;
    if (chosen && chosen.includes(0) && chosen.includes(1)) this.paintOutline(chosen);
    if (view.hover >= 0) this.paintCursor(view.hover, 1.5);
    if (view.cursor >= 0) this.paintCursor(view.cursor, 3);
  }

  paintHeat({ values, scale }) {
    this.context.globalAlpha = 0.82;
    for (const patch of this.story.placed) {
      if (Number.isNaN(values[patch])) continue;
      this.context.fillStyle = heatColour(shareOf(values[patch], scale), this.palette.heat);
      this.context.fillRect(...this.box(patch));
    }
    this.context.globalAlpha = 1;
  }

  region(test) {
    const path = new Path2D();
    for (const patch of this.story.placed) {
      if (test(patch)) path.rect(...this.box(patch));
    }
    return path;
  }

  paintGone(present, view, heat) {
    const before = view.fading;
    const shown = (patch) => heat && !Number.isNaN(heat[patch]);
    const merged = new Set(this.story.merged(view.layer));
    const old = (p) => !present[p] && !shown(p) && !(before && before[p]);
    this.veil(this.region((p) => old(p) && !merged.has(p)), 1);
    this.veil(this.region((p) => old(p) && merged.has(p)), MERGED); // it lives on in another token
    if (before) this.veil(this.region((p) => !present[p] && !shown(p) && before[p]), view.progress);
  }

  veil(path, strength) {
    const { context, canvas } = this;
    context.save();
    context.clip(path);
    context.globalAlpha = strength;
    this.paste(this.pale);
    context.globalAlpha = 0.66 * strength;
    context.fillStyle = this.palette.ink;
    context.fillRect(0, 0, canvas.width, canvas.height);
    this.hatch(this.palette.paper, 0.13 * strength);
    context.restore();
  }

  // Present in this layer, dropped after it: darkened and hatched, so it shows on any picture.
  paintLeaving(present, staying, heat) {
    const path = this.region((p) => present[p] && !staying[p]);
    this.context.save();
    this.context.clip(path);
    if (!heat) {
      this.context.globalAlpha = 0.35;
      this.context.fillStyle = this.palette.ink;
      this.context.fillRect(0, 0, this.canvas.width, this.canvas.height);
    }
    this.hatch(this.palette.paper, heat ? 0.25 : 0.4);
    this.context.restore();
  }

  hatch(colour, alpha) {
    const { context, canvas } = this;
    const step = this.cell() / 2;
    context.globalAlpha = alpha;
    context.strokeStyle = colour;
    context.lineWidth = this.ratio;
    context.beginPath();
    for (let x = -canvas.height; x < canvas.width; x += step) {
      context.moveTo(x, canvas.height);
      context.lineTo(x + canvas.height, 0);
    }
    context.stroke();
    context.globalAlpha = 1;
  }

  // A small cross in patches of padding only.
  paintPadding(padding, present) {
    const { context } = this;
    context.globalAlpha = 0.55;
    context.strokeStyle = this.palette.ink;
    context.lineWidth = this.ratio;
    context.beginPath();
    for (const patch of padding) {
      if (!this.story.boxes[patch] || (present && !present[patch])) continue;
      const [left, top, wide, high] = this.box(patch), inset = 0.36;
      context.moveTo(left + inset * wide, top + inset * high);
      context.lineTo(left + (1 - inset) * wide, top + (1 - inset) * high);
      context.moveTo(left + (1 - inset) * wide, top + inset * high);
      context.lineTo(left + inset * wide, top + (1 - inset) * high);
    }
    context.stroke();
    context.globalAlpha = 1;
  }

  // Thin lines between boxes, but not along the rim of a picture.
  paintGrid() {
    const { context, story } = this, upright = new Map(), level = new Map();
    for (const patch of story.placed) {
      const { frame } = story.sheetOf[patch];
      const rim = this.edges([frame.left, frame.top, frame.right, frame.bottom]);
      const box = this.edges(story.boxes[patch]), [left, top, right, bottom] = box;
      box.forEach((at, side) => {
        if (at === rim[side]) return;
        const [lines, span] = side % 2 ? [level, [left, right]] : [upright, [top, bottom]];
        lines.set(at, [...(lines.get(at) || []), span]);
      });
    }
    context.beginPath();
    for (const [x, spans] of upright) {
      for (const [from, to] of joined(spans)) { context.moveTo(x + 0.5, from); context.lineTo(x + 0.5, to); }
    }
    for (const [y, spans] of level) {
      for (const [from, to] of joined(spans)) { context.moveTo(from, y + 0.5); context.lineTo(to, y + 0.5); }
    }
    context.globalAlpha = 0.22;
    context.lineWidth = 1;
    context.strokeStyle = this.palette.ink;
    context.stroke();
    context.globalAlpha = 1;
  }

  // The outline of a set of patches: shared edges are left out, so a group reads as one shape.
  paintOutline(flags) {
    const lines = new Map(), path = new Path2D();
    const boxes = this.story.placed.filter((patch) => flags[patch])
      .map((patch) => this.edges(this.story.boxes[patch]));
    for (const [left, top, right, bottom] of new Map(boxes.map((box) => [box.join(), box])).values()) {
      for (const line of [[left, top, right, top], [left, bottom, right, bottom],
        [left, top, left, bottom], [right, top, right, bottom]]) {
        lines.set(line.join(), lines.has(line.join()) ? null : line);
      }
    }
    for (const line of lines.values()) {
      if (!line) continue;
      path.moveTo(line[0], line[1]);
      path.lineTo(line[2], line[3]);
    }
    this.context.lineCap = "square";
    this.strokeTwice(path, this.palette.kept, 2.5);
  }

  paintCursor(patch, thickness) {
    const path = new Path2D();
    path.rect(...this.box(patch));
    this.context.lineCap = "square";
    this.strokeTwice(path, this.palette.paper, thickness);
  }

  strokeTwice(path, colour, thickness) {
    // On a phone a patch is a dozen pixels wide, so its frame must be thin.
    thickness *= Math.min(1, this.cell() / this.ratio / 18);
    this.context.strokeStyle = this.palette.ink;
    this.context.lineWidth = 2 * thickness * this.ratio;
    this.context.stroke(path);
    this.context.strokeStyle = colour;
    this.context.lineWidth = thickness * this.ratio;
    this.context.stroke(path);
  }

  // A patch with two neighbours on each side, for the tray; the patch itself is framed.
  thumbnail(canvas, patch) {
    const sheet = this.story.sheetOf[patch], [wide, high] = sheet.size;
    const [left, top, right, bottom] = sheet.own[patch];
    const span = Math.min(5 * Math.max(right - left, bottom - top), wide, high);
    const start = (low, upper, end) => Math.min(Math.max((low + upper - span) / 2, 0), end - span);
    const x = start(left, right, wide), y = start(top, bottom, high);
    const image = this.images[this.story.sheets.indexOf(sheet)];
    const ratio = image.naturalWidth / wide, cell = canvas.width / span;
    const context = canvas.getContext("2d");
    context.drawImage(image, x * ratio, y * ratio, span * ratio, span * ratio,
      0, 0, canvas.width, canvas.height);
    const frame = [(left - x) * cell, (top - y) * cell, (right - left) * cell, (bottom - top) * cell];
    context.strokeStyle = this.palette.ink;
    context.lineWidth = 6;
    context.strokeRect(...frame);
    context.strokeStyle = this.palette.kept;
    context.lineWidth = 3;
    context.strokeRect(...frame);
  }
}
