// Draws a method's picture, lit by presence, and the one picture of the agreement.

class ArenaPainter extends Painter {
  // Decoded pictures are shared: a dozen painters show the same one.
  share(other) {
    for (const name of ["images", "grey", "pale"]) this[name] = other[name];
  }

  begin(story, images) {
    this.story = story;
    this.context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    if (this.images) this.paste(this[images]);
    return Boolean(this.images && story.placed.length);
  }

  // cursor: the chosen patch, or -1.
  drawPresence(story, cursor) {
    if (!this.begin(story, "images")) return;
    const shares = story.presence();
    for (const share of new Set(shares)) {
      if (share < 0.999) this.dim(this.region((patch) => shares[patch] === share), share);
    }
    this.paintMerged([...story.merges().keys()]);
    if (this.roomy()) this.paintGrid();
    this.framed = this.roomy() && story.keeps.includes(0) && story.keeps.includes(1);
    if (this.framed) this.paintOutline(story.keeps);
    if (cursor >= 0) this.paintLinks(story.links(cursor));
    if (cursor >= 0 && story.boxes[cursor]) this.paintCursor(cursor, 3);
  }

  dim(path, share) {
    if (share < 0.001) return this.veil(path, 1);
    this.context.save();
    this.context.clip(path);
    this.context.globalAlpha = 0.74 * (1 - share) ** 0.6; // so that half is seen to be less
    this.context.fillStyle = this.palette.ink;
    this.context.fillRect(0, 0, this.canvas.width, this.canvas.height);
    this.context.restore();
  }

  // counts: per patch how many of `most` methods keep it.
  drawAgreement(story, counts, most, cursor) {
    if (!this.begin(story, "grey")) return;
    this.veil(this.region((patch) => !counts[patch]), 1);
    this.context.globalAlpha = 0.82;
    for (let step = 1; step <= most; step++) {
      this.context.fillStyle = stepColour(step, most);
      this.context.fill(this.region((patch) => counts[patch] === step));
    }
    this.context.globalAlpha = 1;
    this.paintGrid();
    if (cursor >= 0 && story.boxes[cursor]) this.paintCursor(cursor, 3);
  }

  // Is a patch large enough for details?
  roomy() {
    return this.cell() / this.ratio > 10;
  }

  // A dot in every patch that has no token of its own but lives on in another one's.
  paintMerged(patches) {
    const path = new Path2D();
    for (const patch of patches.filter((one) => this.story.boxes[one])) {
      const [left, top, wide, high] = this.box(patch), size = 0.14 * Math.min(wide, high);
      path.moveTo(left + wide / 2 + size, top + high / 2);
      path.arc(left + wide / 2, top + high / 2, size, 0, 2 * Math.PI);
    }
    this.context.fillStyle = this.palette.paper;
    this.context.globalAlpha = 0.75;
    this.context.fill(path);
    this.context.globalAlpha = 1;
  }

  // A line from each merged patch to the patch that carries it, which is framed.
  paintLinks(links) {
    const path = new Path2D();
    const middle = (patch) => {
      const [left, top, wide, high] = this.box(patch);
      return [left + wide / 2, top + high / 2];
    };
    for (const [from, to] of links.filter((link) => link.every((end) => this.story.boxes[end]))) {
      path.moveTo(...middle(from));
      path.lineTo(...middle(to));
      path.rect(...this.box(to));
    }
    this.context.lineCap = "round";
    this.strokeTwice(path, this.palette.paper, 2);
  }
}

// The darkest colours are left out: they could be taken for "none".
function stepColour(step, most) {
  return heatColour(most > 1 ? 0.25 + 0.75 * ((step - 1) / (most - 1)) : 1, PALETTE.heat);
}
