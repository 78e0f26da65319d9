// One method of the arena: its story, with the patches' presence, merges and scores.

class Contender extends Story {
  constructor(value, side) {
    super({ ...value, ...side, kind: "done" }, LOG_RANGE);
    this.finished = Boolean(side.words);
    this.keeps = this.flags(this.finished ? this.sets[side.kept] : []);
  }

  // Does it choose among the patches? One that keeps all, or drops all at once, does not.
  get chooses() {
    return this.keeps.includes(0);
  }

  // Per patch the share of layers that computed its own token, as `PruningTrace.presence`.
  presence() {
    if (this.shares) return this.shares;
    this.shares = new Float64Array(this.length);
    for (const record of this.layers) {
      for (const patch of this.sets[record.mask]) this.shares[patch] += 1 / this.layers.length;
    }
    return this.shares;
  }

  // The last cut that leaves any patch a token of its own; null: there is none.
  lastCut() {
    return this.cuts.filter((cut) => this.sets[cut.kept].length).pop() || null;
  }

  // Merged patch -> the patch whose token carries it after that cut; -1: a token that is no patch.
  merges() {
    const cut = this.lastCut(), merged = cut && cut.carriers.length ? this.sets[cut.merged] : [];
    return new Map(merged.map((patch, i) => [patch, cut.carriers[i]]));
  }

  // The pairs [from, to] of patches that a merge with this patch joins.
  links(patch) {
    return [...this.merges()].filter(([from, to]) => to >= 0 && (from === patch || to === patch));
  }

  // {score, rank, cut, fate} of a patch, as words.
  told(patch) {
    const death = this.death(patch);
    const until = death ? this.cuts.slice(0, this.cuts.indexOf(death) + 1) : this.cuts;
    const cut = [...until].reverse().find((one) => this.scored(one, patch))
      || until[until.length - 1];
    const scored = this.scored(cut, patch);
    return {
      score: scored ? shortNumber(scored.score) : this.unscored(cut),
      rank: scored ? rankWords(scored) : "–",
      cut: cut ? cutWords(cut) : "–",
      fate: this.fateWords(death, patch),
    };
  }

  unscored(cut) {
    if (!cut) return "none: nothing is chosen";
    return cut.title ? `none: ${cut.title.toLowerCase()}` : "none";
  }

  fateWords(death, patch) {
    if (!death) return "stays to the end";
    if (this.carrier(death, patch)) return this.mergedLine(death, patch);
    return `dropped ${cutWords(death)}${death.stage === "exit" ? ", when vision left" : ""}`;
  }
}

// Patches with equal scores share their ranks.
function rankWords({ rank, equal, of }) {
  return equal > 1 ? `${rank}–${rank + equal - 1} of ${of}` : `${rank} of ${of}`;
}

function cutWords(cut) {
  return cut.after < 0 ? "before layer 0" : `after layer ${cut.after}`;
}
