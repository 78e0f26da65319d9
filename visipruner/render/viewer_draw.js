// The picture and what happened to its patches, on a canvas.

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

// A copy with so much of its colour taken out, by hand because Safari's canvas has no filters.
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

class Painter {
  constructor(canvas, palette) {
    this.canvas = canvas;
    this.palette = palette;
    this.context = canvas.getContext("2d");
    this.image = null;
    this.grey = null; // under the heat map
    this.pale = null; // under the veil: one can still see what the model no longer looks at
  }

  load(source, then) {
    const image = new Image();
    this.source = source;
    image.onload = () => {
      if (this.source !== source) return; // a newer one is on its way
      this.image = image;
      this.grey = paleCopy(image, 1);
      this.pale = paleCopy(image, 0.5);
      then();
    };
    image.src = source;
  }

  // Give the canvas as many pixels as the screen has for it.
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

  box(patch) {
    const { width, height } = this.canvas, { rows, columns } = this.story;
    const row = Math.floor(patch / columns), column = patch % columns;
    const left = Math.round((column * width) / columns), top = Math.round((row * height) / rows);
    return [left, top, Math.round(((column + 1) * width) / columns) - left,
      Math.round(((row + 1) * height) / rows) - top];
  }

  // view: {layer, mode, cursor, hover, fading: flags of the layer before, progress 0..1}
  draw(story, view) {
    this.story = story;
    const { context, canvas } = this, heat = story.heat(view.layer, view.mode);
    context.clearRect(0, 0, canvas.width, canvas.height);
    if (!this.image) return;
    context.drawImage(heat ? this.grey : this.image, 0, 0, canvas.width, canvas.height);
    if (!story.perPicture) return;
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
    for (let patch = 0; patch < this.story.perPicture; patch++) {
      if (Number.isNaN(values[patch])) continue;
      this.context.fillStyle = heatColour(shareOf(values[patch], scale), this.palette.heat);
      this.context.fillRect(...this.box(patch));
    }
    this.context.globalAlpha = 1;
  }

  region(test) {
    const path = new Path2D();
    for (let patch = 0; patch < this.story.perPicture; patch++) {
      if (test(patch)) path.rect(...this.box(patch));
    }
    return path;
  }

  paintGone(present, view, heat) {
    const before = view.fading;
    const shown = (patch) => heat && !Number.isNaN(heat[patch]);
    const old = this.region((p) => !present[p] && !shown(p) && !(before && before[p]));
    this.veil(old, 1);
    if (before) this.veil(this.region((p) => !present[p] && !shown(p) && before[p]), view.progress);
  }

  veil(path, strength) {
    const { context, canvas } = this;
    context.save();
    context.clip(path);
    context.globalAlpha = strength;
    context.drawImage(this.pale, 0, 0, canvas.width, canvas.height);
    context.globalAlpha = 0.66 * strength;
    context.fillStyle = this.palette.ink;
    context.fillRect(0, 0, canvas.width, canvas.height);
    this.hatch(this.palette.paper, 0.13 * strength);
    context.restore();
  }

  // Still there in this layer, dropped after it: darkened and hatched, so it shows on any picture.
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
    const step = canvas.width / this.story.columns / 2;
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

  // A small cross in patches that hold nothing but padding.
  paintPadding(padding, present) {
    const { context } = this;
    context.globalAlpha = 0.55;
    context.strokeStyle = this.palette.ink;
    context.lineWidth = this.ratio;
    context.beginPath();
    for (const patch of padding) {
      if (present && !present[patch]) continue;
      const [left, top, wide, high] = this.box(patch), inset = 0.36;
      context.moveTo(left + inset * wide, top + inset * high);
      context.lineTo(left + (1 - inset) * wide, top + (1 - inset) * high);
      context.moveTo(left + (1 - inset) * wide, top + inset * high);
      context.lineTo(left + inset * wide, top + (1 - inset) * high);
    }
    context.stroke();
    context.globalAlpha = 1;
  }

  paintGrid() {
    const { context, canvas } = this, { rows, columns } = this.story;
    context.beginPath();
    for (let column = 1; column < columns; column++) {
      const x = Math.round((column * canvas.width) / columns) + 0.5;
      context.moveTo(x, 0);
      context.lineTo(x, canvas.height);
    }
    for (let row = 1; row < rows; row++) {
      const y = Math.round((row * canvas.height) / rows) + 0.5;
      context.moveTo(0, y);
      context.lineTo(canvas.width, y);
    }
    context.globalAlpha = 0.22;
    context.lineWidth = 1;
    context.strokeStyle = this.palette.ink;
    context.stroke();
    context.globalAlpha = 1;
  }

  // The edge of a set of patches: neighbours share none, so a group reads as one shape.
  paintOutline(flags) {
    const { rows, columns } = this.story, { context } = this, path = new Path2D();
    const has = (row, column) => row >= 0 && column >= 0 && row < rows && column < columns
      && flags[row * columns + column];
    const edge = (x1, y1, x2, y2) => { path.moveTo(x1, y1); path.lineTo(x2, y2); };
    for (let row = 0; row < rows; row++) {
      for (let column = 0; column < columns; column++) {
        if (!has(row, column)) continue;
        const [x, y, wide, high] = this.box(row * columns + column);
        if (!has(row - 1, column)) edge(x, y, x + wide, y);
        if (!has(row + 1, column)) edge(x, y + high, x + wide, y + high);
        if (!has(row, column - 1)) edge(x, y, x, y + high);
        if (!has(row, column + 1)) edge(x + wide, y, x + wide, y + high);
      }
    }
    context.lineCap = "square";
    this.strokeTwice(path, this.palette.kept, 2.5);
  }

  paintCursor(patch, thickness) {
    const path = new Path2D();
    path.rect(...this.box(patch));
    this.context.lineCap = "square";
    this.strokeTwice(path, this.palette.paper, thickness);
  }

  strokeTwice(path, colour, thickness) {
    // On a phone a patch is a dozen pixels wide; its frame may not cover it.
    const cell = this.canvas.width / this.ratio / this.story.columns;
    thickness *= Math.min(1, cell / 18);
    this.context.strokeStyle = this.palette.ink;
    this.context.lineWidth = 2 * thickness * this.ratio;
    this.context.stroke(path);
    this.context.strokeStyle = colour;
    this.context.lineWidth = thickness * this.ratio;
    this.context.stroke(path);
  }

  // A patch with its neighbours, for the tray; the patch itself is framed.
  thumbnail(canvas, patch) {
    const { rows, columns } = this.story, reach = 2;
    const row = Math.floor(patch / columns), column = patch % columns;
    const span = Math.min(2 * reach + 1, rows, columns);
    const top = Math.min(Math.max(row - reach, 0), rows - span);
    const left = Math.min(Math.max(column - reach, 0), columns - span);
    const wide = this.image.naturalWidth / columns, high = this.image.naturalHeight / rows;
    const context = canvas.getContext("2d"), cell = canvas.width / span;
    context.drawImage(this.image, left * wide, top * high, span * wide, span * high,
      0, 0, canvas.width, canvas.height);
    const frame = [(column - left) * cell, (row - top) * cell, cell, cell];
    context.strokeStyle = this.palette.ink;
    context.lineWidth = 6;
    context.strokeRect(...frame);
    context.strokeStyle = this.palette.kept;
    context.lineWidth = 3;
    context.strokeRect(...frame);
  }
}
