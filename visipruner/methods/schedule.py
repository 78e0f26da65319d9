"""A fixed schedule: when visual tokens enter, how many stay after a layer, when they leave.

It serves to measure, to teach, and to run models that were trained for it. Late entry is HiDrop's
late injection (arXiv 2602.23699).

Vision exit alone, `Schedule(keep_after=None, none_after=14)`, is what VTW runs (AAAI 2025, arXiv
2405.05803; code read: lzhxmu/VTW 34a41991). VTW drops every visual token before layer K, so its
K = 15 for LLaVA-1.5-7B is `none_after=14` here, where layers count from 0 and the last layer with
visual tokens is named. VTW searches for K on a small set of samples, by the KL divergence of the
last token's logits with every K from the unpruned model's; here the layer is a setting. Positions
stay true, as by VTW's default (`pe_type` "keep").
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from visipruner.errors import Refused
from visipruner.inputs import check_number
from visipruner.levels import PUBLISHED_LAYERS, Facts, budget
from visipruner.methods.base import TOO_LATE, PruningMethod, stayed
from visipruner.settings import INT, setting
from visipruner.trace import Selection


@dataclass(frozen=True)
class Schedule(PruningMethod):
    """Keep evenly spread patches at fixed layers, whatever the picture shows.

    Args:
        keep: visual tokens that stay after `keep_after`; all, if the picture has no more.
        keep_after: the layer after which the others are dropped; -1: before the language model;
            None: never.
        none_after: the layer after which no visual token is left; None: they stay to the end.
        enter: the first layer that computes visual tokens. Earlier layers run on text alone and
            cache nothing visual. None: visual tokens enter at layer 0.
    """

    name: ClassVar[str] = "schedule"
    title: ClassVar[str] = "Fixed schedule"
    paper: ClassVar[str] = "late entry: arXiv 2602.23699; vision exit: arXiv 2405.05803"
    rule: ClassVar[str] = "a number of tokens after one layer, none after another; or late entry"
    stage_words: ClassVar[Mapping[str, str]] = {
        "schedule": "Evenly spread",
        "exit": "No vision",
        "enter": "Entered",
    }

    keep: int = setting(10, "Patches that stay", INT, low=0, high=1_000_000)
    keep_after: int | None = setting(
        14,
        "Drop the others after this layer (-1: before the first)",
        INT,
        low=-1,
        high=999,  # one less, because none_after comes later
        optional=True,
    )
    none_after: int | None = setting(
        23, "No patch is left after this layer", INT, low=0, high=1000, optional=True
    )
    enter: int | None = setting(
        None, "Patches enter before this layer", INT, low=1, high=999, optional=True
    )

    def check(self):
        first = -1
        if self.enter is not None:
            first = self.enter
        if self.keep_after is not None:
            check_number("keep_after", self.keep_after, first, 999)
            first = self.keep_after + 1
        if self.none_after is not None:
            check_number("none_after", self.none_after, max(0, first), 1000)

    @classmethod
    def _published(cls, facts: Facts) -> tuple[int, int]:
        """As LLaVA-1.5 in VisiPruner's paper: of 32 layers, 15 full and 24 with visual tokens."""
        full, last = (round(facts.layers * n / PUBLISHED_LAYERS) for n in (15, 24))
        return full, last

    @classmethod
    def at_level(cls, level, facts, given):
        full, last = cls._published(facts)
        return cls(round(budget(level, facts)), full - 1, last - 1 if level > 0 else None)

    @classmethod
    def for_budget(cls, tokens, facts):
        full, last = cls._published(facts)
        whole = tokens * facts.layers
        full = min(full, int(whole // facts.num_visual)) if facts.num_visual else full
        if whole - full * facts.num_visual > (last - full) * facts.num_visual:
            last = facts.layers  # the budget exceeds the published schedule
        keep = round((whole - full * facts.num_visual) / max(1, last - full))
        return cls(keep, full - 1, last - 1 if last < facts.layers else None)

    @property
    def cuts_after(self):
        return tuple(n for n in (self.keep_after, self.none_after) if n is not None)

    def within(self, facts):
        keep_after, none_after = (
            n if n is None or n < 0 else facts.enter + n for n in (self.keep_after, self.none_after)
        )
        if none_after is not None and none_after >= facts.last:
            none_after = None  # the model's own schedule ends there
        return replace(self, keep_after=keep_after, none_after=none_after)

    def check_span(self, facts):
        super().check_span(facts)
        if self.enter is not None:
            raise Refused(
                f"This model's visual tokens enter at layer {facts.enter}: it was trained so, and "
                "`enter` cannot change it."
            )

    def encode(self, view):
        if self.enter is not None:
            text = view.tokens[view.rows.is_text].tolist()
            return Selection(tuple(text), "wait", enter=self.enter)
        return self._spread(view) if self.keep_after == -1 else None

    def select(self, view):
        last = view.num_layers - 1
        if view.layer == self.keep_after and view.layer < last:
            return self._spread(view)
        if view.layer == self.none_after and len(view.visual_rows):
            return view.keep_visual(view.visual_rows[:0], "exit")
        return None

    def _spread(self, view):
        present = len(view.visual_rows)
        keep = min(self.keep, present)
        # The middle of each of `keep` equal parts.
        chosen = (torch.arange(keep, device="cpu") * 2 + 1) * present // max(1, 2 * keep)
        return view.keep_visual(chosen, "schedule")

    def explain(self, trace, memory):
        if not trace.num_visual:
            return "", {}
        return " ".join(self._sentences(trace, memory)) or TOO_LATE, {}

    def _sentences(self, trace, memory):
        last, none_left = len(trace.layers) - 1, "No visual token is left"
        for cut in memory.cuts:
            layer = cut.after_layer
            when = "before the first layer" if layer < 0 else f"after layer {layer}"
            if cut.stage == "enter":
                yield f"Visual tokens entered before layer {cut.after_layer + 1}."
            elif cut.stage == "wait" and self.enter > last:
                yield f"No visual token entered: the model has no layer {self.enter}."
            elif cut.stage == "schedule":
                yield stayed(len(cut.visual), f"evenly spread in reading order, {when}")
            elif cut.stage == "exit" and cut.after_layer < last:
                yield f"{none_left} after layer {cut.after_layer}."
            none_left = "None is left"  # after a sentence about them
