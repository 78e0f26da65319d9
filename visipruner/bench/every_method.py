"""Every method at one budget: is it faster by its FLOPs' ratio, and what does choosing cost?"""

from __future__ import annotations

import sys
from contextlib import nullcontext
from dataclasses import dataclass, field, replace

import torch

from visipruner.bench.clocks import MOMENTS, Spent, clocked
from visipruner.bench.scenarios import FULL_LAYERS, timetable, with_tests
from visipruner.bench.timing import quartiles, ratio, seconds
from visipruner.bench.whole import Whole
from visipruner.choice import Side, Wish, make, methods_of, parse
from visipruner.engine import prune
from visipruner.errors import Refused
from visipruner.evaluation.tradeoff import STACKS
from visipruner.flops import ModelShape, executed, kv_bytes
from visipruner.methods import METHODS, PruningMethod, Schedule
from visipruner.tower import needs_clip, needs_tower

BUDGET = "25%"
NOISE = "CLIP's embeddings are handed in as noise, so the times hold nothing of its text tower"


def every_name() -> list[str]:
    """Every method, and the stacks of the trade-off curve."""
    stacks = [stack for stack in STACKS if stack.partition("+")[0] in METHODS]
    return [*(name for name in METHODS if name != PruningMethod.name), *stacks]


def wishes(names: list[str], budget: str) -> list[Wish]:
    """The named methods and stacks at one budget; all, if there are no names.

    Args:
        budget: mean visual tokens per layer, "144" or "25%"; in a stack, of the first method.

    Raises:
        Refused: an unknown name, or the budget is no number.
    """
    for name in names:
        if set(name) & set(":@"):
            raise Refused(f"--methods takes names only, not {name[:40]!r}; --budget is for all.")
    return [parse(f"{name}@{budget}") for name in names or every_name()]


@dataclass
class Entrant:
    """A method or stack on a whole model, and its measurements.

    Args:
        side: None: the unpruned model, without hooks.
        note: what the reader must know about it.
    """

    name: str
    where: Whole
    side: Side | None = None
    note: str = ""
    prefills: list[float] = field(default_factory=list)  # in seconds, like the list below
    owns: list[float] = field(default_factory=list)  # spent on what the method was asked

    @property
    def watches(self) -> bool:
        """Is the vision tower watched for it? CLIP's embeddings of the picture come from there."""
        methods = methods_of(self.side or ())
        return needs_tower(methods) or needs_clip(methods)

    def pruned(self, side: Side | None):
        """Inside, the model runs this way."""
        if side is None:
            return nullcontext()
        given, methods = {}, methods_of(side)
        if needs_tower(methods):
            given["tower"] = self.where.encoded.tower
        if needs_clip(methods):
            given["clip"] = self.where.clip
        return prune(self.where.vlm.model, side, self.where.prompt.layout, **given)

    @torch.inference_mode()
    def learn(self):
        """One run for the trace, which also warms up.

        Raises:
            Refused: the method cannot serve this prompt.
        """
        with self.pruned(self.side or PruningMethod()) as self.trace:
            self.where.forward()

    @torch.inference_mode()
    def round(self):
        """One sample of the prefill and of the method's own part of it."""
        if self.side is None:
            self.prefills.append(self._seconds(None))
            return
        spent = Spent(self.where.device)
        took = self._seconds(clocked(self.side, MOMENTS, spent))
        self.owns.append(spent.seconds)
        if self.where.device != "cpu":  # there the clock makes the host wait for the GPU
            took = self._seconds(self.side)
        self.prefills.append(took)

    def _seconds(self, side: Side | None) -> float:
        def run():
            with self.pruned(side):
                self.where.forward()

        return seconds(run, self.where.device)

    def result(self, dense: Entrant) -> dict:
        """The numbers for JSON; names with _s are seconds; `own` is the method's part."""
        vlm = self.where.vlm
        shape, methods = ModelShape.of(vlm.model.config), methods_of(self.side or ())
        flops, dense_flops = (executed(shape, e.trace) for e in (self, dense))
        flop_ratio = dense_flops.prefill / flops.prefill
        speedup = ratio(dense.prefills, self.prefills)
        return {
            "name": self.name,
            "note": self.note,
            "methods": [{"name": method.name, **method.settings} for method in methods],
            "watches_tower": self.watches,
            "mean_tokens": self.trace.mean_tokens,
            "visual_tokens": [record.visual_tokens for record in self.trace.layers],
            "prefill_s": quartiles(self.prefills),
            "speedup": speedup,
            "flop_ratio": flop_ratio,
            "speedup_over_flop_ratio": speedup / flop_ratio,
            "speedup_with_tower": self._front(dense) / self._front(self),
            "own_s": quartiles(self.owns),
            "own_share_of_prefill": ratio(self.owns, self.prefills),
            "own_flops": flops.probe,
            "prefill_flops": flops.prefill,
            "kv_bytes": kv_bytes(shape, self.trace, vlm.dtype.itemsize),
        }

    def _front(self, entrant: Entrant) -> float:
        """Seconds of tower and prefill; the tower is watched for those who need it."""
        tower = self.where.watched if entrant.watches else self.where.towers
        return quartiles(tower)["median"] + quartiles(entrant.prefills)["median"]


def run_methods(where: Whole, wished: list[Wish], rounds: int, budget: str) -> dict:
    """A row for every method or stack, interleaved round after round in one process.

    A method that refuses gets a row with its sentence.
    """
    dense = Entrant("dense", where)
    rows: list[Entrant | dict] = [dense]
    dense.learn()
    for wish in wished:
        try:
            entrant = Entrant(wish.name, where, *side_of(wish, where))
            entrant.learn()
            rows.append(entrant)
        except Refused as error:
            rows.append({"name": wish.name, "refused": str(error)})
    entrants = [row for row in rows if isinstance(row, Entrant)]
    for turn in range(rounds):
        where.look(turn)
        for entrant in entrants if turn % 2 == 0 else reversed(entrants):
            entrant.round()
        print(f"  round {turn + 1} of {rounds}", file=sys.stderr, flush=True)
    vlm, layout = where.vlm, where.prompt.layout
    return {
        "name": where.name,
        "budget": budget,
        "visual": layout.num_visual,
        "tokens": layout.length,
        "tower_s": quartiles(where.towers),
        "watched_tower_s": quartiles(where.watched),
        "tower_flops": vlm.family.tower_flops(vlm.model.config, where.prompt),
        "results": [row.result(dense) if isinstance(row, Entrant) else row for row in rows],
    }


def side_of(wish: Wish, where: Whole) -> tuple[Side, str]:
    """The method or stack of a wish, and a note for the reader.

    On random weights VisiPruner's thresholds decide nothing. There a schedule decides for it, while
    it tests, edits and caches as ever: alone by the budget, in a stack as for LLaVA-1.5.

    Raises:
        Refused: the budget is below a method's least.
    """
    facts = where.vlm.facts(where.prompt.layout.num_visual)
    if not where.random or "visipruner" not in wish.names:
        side = make(wish, facts)
        return side, NOISE if needs_clip(methods_of(side)) else ""
    parts: list[PruningMethod] = []
    for number, name in enumerate(wish.names):
        own = replace(wish, names=(name,)) if number == 0 else Wish((name,))
        if name != "visipruner":
            parts += methods_of(make(own, facts))
            continue
        stack = timetable(FULL_LAYERS[0], facts.layers)
        if number == 0:
            stack = with_tests(make(replace(own, names=("schedule",)), facts), facts.layers)
        parts += stack
        note = _fixed(stack[0])
        if number:
            note = f"VisiPruner: {note}"
    return tuple(parts), note


def _fixed(cuts: Schedule) -> str:
    left = f"{cuts.keep} are left" if cuts.keep else "none is left"
    early = cuts.keep_after < 0
    start = "before the first layer" if early else f"after layer {cuts.keep_after}"
    ends = cuts.keep and cuts.none_after is not None
    end = f", none after layer {cuts.none_after}" if ends else ""
    return (
        "its decisions mean nothing on random weights, so they are fixed: "
        f"{left} {start}{end}; its tests, edits and caches are its own"
    )
