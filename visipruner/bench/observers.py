"""What watching costs: a prefill with each observer on all layers, and whole analyses."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from types import SimpleNamespace

import torch

from visipruner.analyses import ANALYSES
from visipruner.analyses.base import Analysis
from visipruner.analyses.observed import Observed
from visipruner.analyses.together import together
from visipruner.bench.timing import quartiles, ratio, seconds
from visipruner.bench.whole import Whole
from visipruner.engine import prune
from visipruner.methods import PruningMethod

ALL = "all together"
# A random model has no tokenizer; its words are worth nothing, but finding them takes time.
WORDS = SimpleNamespace(
    tokenizer=SimpleNamespace(unk_token_id=0, decode=str, convert_ids_to_tokens=str)
)


@dataclass
class Watching:
    """A prefill that some observers watch on all layers.

    Args:
        watched: None: the stock model. Empty: `prune` that prunes nothing, without observers.
    """

    name: str
    where: Whole
    watched: Sequence[Observed] | None
    took: list[float] = field(default_factory=list)  # seconds

    @torch.inference_mode()
    def run(self):
        vlm, prompt, block = self.where.vlm, self.where.prompt, nullcontext()
        if self.watched is not None:
            observers = [one.observer(vlm, prompt) for one in self.watched]
            block = prune(vlm.model, PruningMethod(), prompt.layout, observers=observers)
        with block:
            self.where.forward()

    def result(self, plain: Watching) -> dict:
        """The numbers for JSON; `over_plain` is a ratio of medians."""
        over = ratio(self.took, plain.took)
        return {"name": self.name, "prefill_s": quartiles(self.took), "over_plain": over}


@dataclass
class Analysing:
    """Whole analyses, from the encoded picture to their results."""

    name: str
    where: Whole
    analyses: Sequence[Analysis]
    took: list[float] = field(default_factory=list)  # seconds

    def run(self):
        where = self.where
        with closing(together(where.vlm, where.prompt, where.encoded, self.analyses)) as events:
            for _ in events:
                pass

    def result(self, _plain) -> dict:
        """The numbers for JSON."""
        return {"name": self.name, "seconds": quartiles(self.took)}


def run_observers(where: Whole, rounds: int) -> dict:
    """Rows of prefills and, for the bundled model, of analyses; each kind interleaved."""
    if where.random:
        where.vlm.processor = WORDS
    found = {"name": where.name, "visual": where.prompt.layout.num_visual}
    found |= {"tokens": where.prompt.layout.length}
    found["watched"] = _measured(_watching(where), rounds, "prefills")
    found["analyses"] = [] if where.random else _measured(_analysing(where), rounds, "analyses")
    return found


def _watching(where: Whole) -> list[Watching]:
    kinds = {name: kind() for name, kind in ANALYSES.items() if issubclass(kind, Observed)}
    rows = [Watching("stock", where, None), Watching("no observer", where, ())]
    rows += [Watching(name, where, (one,)) for name, one in kinds.items()]
    return [*rows, Watching(ALL, where, tuple(kinds.values()))]


def _analysing(where: Whole) -> list[Analysing]:
    made = {name: kind() for name, kind in ANALYSES.items()}
    rows = [Analysing(name, where, (one,)) for name, one in made.items()]
    return [*rows, Analysing(ALL, where, tuple(made.values()))]


def _measured(rows: Sequence[Watching | Analysing], rounds: int, what: str) -> list[dict]:
    """One uncounted run of each, then all in turn, every second round backwards."""
    for row in rows:
        row.run()
    for turn in range(rounds):
        for row in rows if turn % 2 == 0 else reversed(rows):
            row.took.append(seconds(row.run, row.where.device))
        print(f"  {what}, round {turn + 1} of {rounds}", file=sys.stderr, flush=True)
    return [row.result(rows[0]) for row in rows]
