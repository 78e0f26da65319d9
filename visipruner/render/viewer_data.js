// Turns the value into arrays and sentences. No drawing, no page.

const MOST_DECADES = 12; // of a colour scale: attention may fall to 1e-40

function bytesOf(packed) {
  const text = atob(packed);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes;
}

// The numbers of the patches whose bit is set, ascending.
function patchesOf(packed, length) {
  const bytes = bytesOf(packed), patches = [];
  for (let i = 0; i < length; i++) if (bytes[i >> 3] & (128 >> (i & 7))) patches.push(i);
  return patches;
}

function numbersOf(packed, range) {
  const bytes = bytesOf(packed), numbers = new Float64Array(bytes.length / 2);
  for (let i = 0; i < numbers.length; i++) {
    const code = bytes[2 * i] + 256 * bytes[2 * i + 1];
    numbers[i] = code === 0 ? 0 : 10 ** (range[0] + (code / 65535) * (range[1] - range[0]));
  }
  return numbers;
}

// Numbers of `pack_scores`.
function scoresOf(packed) {
  const bytes = new DataView(bytesOf(packed).buffer);
  return Float64Array.from({ length: bytes.byteLength / 4 }, (_, i) => bytes.getFloat32(4 * i, true));
}

// One number per patch of the picture; NaN for patches without one.
function spread(numbers, patches, length) {
  const all = new Float64Array(length).fill(NaN);
  patches.forEach((patch, i) => { all[patch] = numbers[i]; });
  return all;
}

class Story extends Places {
  constructor(value, logRange) {
    super(value.sheets || [], value.num_visual || 0);
    Object.assign(this, { ...value, sheets: this.sheets });
    this.range = logRange;
    this.sets = (value.masks || []).map((mask) => patchesOf(mask, this.length));
    this.layers = value.layers || [];
    this.steps = value.steps || [];
    this.cuts = value.cuts || [];
    this.thresholds = value.thresholds || {};
    this.influences = new Map();
  }

  // The patches in a layer as 0/1 per patch; null: not known yet.
  present(layer) {
    const record = this.layers[layer];
    return record && record.mask !== null ? this.flags(this.sets[record.mask]) : null;
  }

  flags(patches) {
    const flags = new Uint8Array(this.length);
    for (const patch of patches) flags[patch] = 1;
    return flags;
  }

  cutAfter(layer) {
    return this.cuts.filter((cut) => cut.after === layer).pop() || null;
  }

  // The patches that continue after a layer: present(), minus those dropped after it.
  staying(layer) {
    const cut = this.cutAfter(layer);
    return cut ? this.flags(this.sets[cut.kept]) : this.present(layer);
  }

  // {change, l2} per patch of a layer in this run ("run") or the full model ("probe"), or null.
  influence(layer, source) {
    const packed = source === "probe" ? this.probe && this.probe[layer]
      : this.layers[layer] && this.layers[layer].influence;
    if (!packed) return null;
    const key = source + layer;
    if (!this.influences.has(key)) {
      const at = this.sets[packed.at];
      this.influences.set(key, {
        change: spread(numbersOf(packed.change, this.range), at, this.length),
        l2: spread(numbersOf(packed.l2, this.range), at, this.length),
        unit: this.thresholds.relative ? packed.norm : 1,
      });
    }
    return this.influences.get(key);
  }

  // The numbers that colour a layer's patches: {values, scale in decades}, or null.
  heat(layer, mode) {
    if (mode === "picture") return null;
    if (mode === "scores") return this.scores(layer);
    const influence = this.influence(layer, mode);
    return influence && { values: influence.change, scale: this.scale };
  }

  // The scores of a method without an influence test.
  scores(layer) {
    const cut = this.cutAfter(layer);
    if (!cut || !cut.scores) return null;
    const values = spread(scoresOf(cut.scores), this.sets[cut.at], this.length);
    const logs = [...values].filter((value) => value > 0).map(Math.log10);
    if (!logs.length) return null;
    const high = Math.ceil(Math.max(...logs));
    const low = Math.max(Math.floor(Math.min(...logs)), high - MOST_DECADES);
    return { values, scale: [low, Math.max(low + 1, high)] };
  }

  // The colour modes that have data in this run.
  modes() {
    this.known = this.known || this.findModes();
    return this.known;
  }

  // The layers whose patches have colours in a mode, ascending.
  coloured(mode) {
    return this.layers.map((_, layer) => layer).filter((layer) => this.heat(layer, mode));
  }

  // Why no layer has colours; empty: some have.
  whyPlain() {
    if (this.kind !== "done") return "Colours come when the answer is there.";
    return this.modes().length < 2 ? "No influence was tested in this run, so there are no colours." : "";
  }

  findModes() {
    const some = (mode) => this.kind === "done" && this.coloured(mode).length > 0;
    const run = some("run");
    return ["picture", ...(run ? ["run"] : some("scores") ? ["scores"] : []),
      ...(some("probe") ? ["probe"] : [])];
  }

  stepOf(layer) {
    return this.steps.find((step) => step.first <= layer && layer <= step.last) || null;
  }

  // The cut that removed a patch for good, or null: a patch that waits outside comes back.
  death(patch) {
    let death = null;
    for (const cut of this.cuts) {
      const stays = this.sets[cut.kept].includes(patch);
      death = stays ? null : death || cut;
    }
    return death;
  }

  // The token that carries a merged patch after a cut; "" if the patch is dropped or not merged.
  carrier(cut, patch) {
    const at = cut.carriers.length ? this.sets[cut.merged].indexOf(patch) : -1;
    if (at < 0) return "";
    const by = cut.carriers[at];
    if (by < 0 || !this.boxes[by]) return "by a token that is no patch";
    return `by the token of ${this.place(by).toLowerCase()}`;
  }

  // The patches that were merged into a token that is present in a layer.
  merged(layer) {
    const cut = this.cuts.filter((one) => one.after < layer).pop();
    return cut && cut.carriers.length ? this.sets[cut.merged] : [];
  }

  numbers(influence, patch) {
    if (!influence || Number.isNaN(influence.change[patch])) return "";
    const l2 = influence.l2[patch] / influence.unit;
    const relative = this.thresholds.relative ? "relative " : "";
    return `cosine ${cosineText(influence.change[patch])}, ${relative}L2 ${shortNumber(l2)}`;
  }

  fate(patch) {
    const cut = this.death(patch);
    if (this.kind !== "done") return "";
    if (!cut && !this.cuts.length) return "nothing is dropped in this run";
    if (cut && this.carrier(cut, patch)) return this.mergedLine(cut, patch);
    if (!cut) return `stays to the end${this.influence(this.cuts[0].after, "run")
      ? "" : this.rank(this.cuts[0], patch)}`;
    const where = cut.after < 0 ? "dropped before layer 0" : `dropped after layer ${cut.after}`;
    const influence = this.influence(cut.after, "run");
    if (cut.stage === "filter" && influence) return `${where}: ${this.verdict(influence, patch)}`;
    if (cut.stage === "exit") return `${where}, when vision left`;
    return where + this.rank(cut, patch);
  }

  mergedLine(cut, patch) {
    const where = cut.after < 0 ? "merged before layer 0" : `merged after layer ${cut.after}`;
    const last = this.cuts[this.cuts.length - 1], now = this.carrier(last, patch);
    if (now) return `${where}, carried ${now}`;
    return `${where}, carried ${this.carrier(cut, patch)} until that was dropped`;
  }

  // The rank of a patch among those that a method scored.
  rank(cut, patch) {
    const scored = this.scored(cut, patch);
    return scored ? `, rank ${scored.rank} of ${scored.of} by the method's score` : "";
  }

  // {score, rank, equal, of} of a patch at a cut; null: it was not scored there.
  scored(cut, patch) {
    if (!cut || !cut.scores || !this.sets[cut.at].includes(patch)) return null;
    const scores = scoresOf(cut.scores), at = this.sets[cut.at];
    const score = scores[at.indexOf(patch)];
    const count = (test) => scores.reduce((sum, other) => sum + test(other), 0);
    const better = count((other) => other > score), equal = count((other) => other === score);
    return { score, rank: better + 1, equal, of: at.length };
  }

  verdict(influence, patch) {
    const { tokens_threshold: limit, layer_threshold: cosine } = this.thresholds;
    const l2 = influence.l2[patch] / influence.unit;
    const relative = this.thresholds.relative ? "relative " : "";
    const below = l2 < limit ? ` < ${shortNumber(limit)}, too weak to stay` : "";
    const weak = `${relative}L2 ${shortNumber(l2)}${below}`;
    const turn = influence.change[patch], cosineLimit = +cosine.toPrecision(6);
    const sign = turn > 1 - cosine ? `< ${cosineLimit}` : `≥ ${cosineLimit} → no influence`;
    return `cosine ${cosineText(turn)} (${sign}), ${weak}`;
  }

  // The full line about one patch, as seen from a layer.
  patchLine(patch, layer, withProbe) {
    if (patch < 0) return "Point at a patch, tap it, or use the arrow keys.";
    const padding = this.padding && this.padding.includes(patch) ? " (only padding)" : "";
    const parts = [`${this.place(patch)}${padding}`];
    const fate = this.fate(patch);
    if (fate) parts.push(` — ${fate}`);
    if (this.kind !== "done") return parts.join("") + ".";
    const death = this.death(patch);
    const now = this.numbers(this.influence(layer, "run"), patch);
    const step = this.stepOf(layer);
    if (step && step.stage === "waiting") parts.push(`. Layer ${layer}: it waits outside`);
    else if (death && layer > death.after) {
      const merged = this.cuts.filter((cut) => cut.after < layer).pop();
      const carried = merged && this.carrier(merged, patch);
      parts.push(carried ? `. Layer ${layer}: no token of its own` : `. Layer ${layer}: no longer there`);
    }
    else if (now && !(death && death.after === layer && death.stage === "filter")) {
      parts.push(`. Layer ${layer}: ${now}`);
    } else if (!now && this.modes().includes("run")) {
      parts.push(`. Layer ${layer}: not tested${this.whyUntested(layer)}`);
    }
    const full = withProbe && this.numbers(this.influence(layer, "probe"), patch);
    if (full) parts.push(`. Full model, layer ${layer}: ${full}`);
    return parts.join("") + ".";
  }

  whyUntested(layer) {
    const record = this.layers[layer];
    if (!record) return "";
    const step = this.stepOf(layer);
    if (step && step.stage === "waiting") return " (the visual tokens wait outside)";
    if (!record.visual) return " (no visual token is left)";
    if (record.stage === "shallow") return " (shallow: single patches are not read yet)";
    return " (the method measures nothing here)";
  }

  // The picture's description for screen readers.
  pictureLabel(layer) {
    if (!this.sheets.length) return "No picture yet";
    const grid = this.gridText();
    const record = this.layers[layer];
    if (!record) return `The picture as the model sees it${grid}`;
    const staying = this.present(layer);
    const few = staying && record.visual && record.visual <= 12
      ? " at " + [...staying.keys()].filter((p) => staying[p])
        .map((p) => this.place(p).toLowerCase()).join("; ") : "";
    return `The picture as the model sees it${grid}. Layer ${layer}: ` +
      `${record.visual} of ${this.length} visual tokens are left${few}.`;
  }
}

// "layer 3", "layers 3, 5 to 8 and 11".
function layersText(layers) {
  const spans = joined(layers.map((layer) => [layer, layer + 1]));
  const names = spans.flatMap(([from, to]) => (to - from > 2 ? [`${from} to ${to - 1}`]
    : to - from === 2 ? [`${from}`, `${from + 1}`] : [`${from}`]));
  const last = names.pop(), all = names.length ? `${names.join(", ")} and ${last}` : last;
  return `${layers.length === 1 ? "layer" : "layers"} ${all}`;
}

function cosineText(change) {
  const cosine = 1 - change;
  return change > 0 && change < 5e-6 ? (1 - change).toFixed(7) : cosine.toFixed(5);
}

function shortNumber(number) {
  if (!(number > 0)) return "0";
  return number >= 100 ? number.toFixed(0) : number >= 0.001 ? String(+number.toPrecision(2))
    : number.toExponential(0);
}
