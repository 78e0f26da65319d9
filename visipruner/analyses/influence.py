"""Analysis 1a: how far each visual token moves the last prompt token, layer by layer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from visipruner.analyses.base import Figure, PatchMap, Series
from visipruner.analyses.observed import Observed, Result, check_visual, per_patch
from visipruner.choice import method_at
from visipruner.levels import PRESETS
from visipruner.observing import Observer
from visipruner.settings import CHOICE, setting

SCALE = (-6.0, 0.0)  # fixed, so that maps of two pictures can be compared


@dataclass(frozen=True)
class Influences(Result):
    """Influence per layer and visual token, and what VisiPruner made of it."""

    cos: tuple  # (layers, visual tokens) cosine with and without the token; None: not there
    l2: tuple  # (layers, visual tokens) how far the output moves; None: not there
    norm: tuple  # (layers,) length of the output; None: no visual token was there
    level: str  # of VisiPruner
    kept: int  # visual tokens that VisiPruner keeps after its filtering layer
    filtering_layer: int | None
    exit_layer: int | None

    @property
    def lowest(self) -> tuple:
        """(layers,) (cosine, patch) of the most influential visual token, or None."""
        rows = [[(c, patch) for patch, c in enumerate(row) if c is not None] for row in self.cos]
        return tuple(min(row) if row else None for row in rows)


@dataclass(frozen=True)
class InfluenceMap(Observed):
    """VisiPruner's test in every layer of the unpruned model."""

    name: ClassVar[str] = "influence"
    title: ClassVar[str] = "Influence map"
    question: ClassVar[str] = "Which patches move what the last prompt token reads?"
    source: ClassVar[str] = "VisiPruner, section 4.1: the influence test"

    level: str = setting(
        "balanced", "Level of VisiPruner", CHOICE, options={name: name for name in PRESETS}
    )

    def check(self, vlm, prompt):
        check_visual(prompt, self.title)

    def observer(self, vlm, prompt):
        return _Tests()

    def also(self, vlm, prompt):
        return method_at(vlm, "visipruner", self.level, "paper", prompt.layout.num_visual)

    def conclude(self, vlm, prompt, observer, trace) -> Influences:
        cuts = [cut for cut in trace.cuts if cut.stage == "filter"]
        return Influences(
            tuple(observer.cos),
            tuple(observer.l2),
            tuple(observer.norm),
            self.level,
            len(cuts[0].kept) if cuts else trace.num_visual,
            trace.filtering_layer,
            trace.exit_layer,
        )

    def figures(self, result: Influences) -> list[Figure | PatchMap]:
        values = [[c if c is None else _turn(c) for c in row] for row in result.cos]
        strongest = [low if low is None else _turn(low[0]) for low in result.lowest]
        words = f"{_strongest(result)} {_visipruner(result)}"
        marks = {"filtering layer": result.filtering_layer, "exit layer": result.exit_layer}
        line = Series("the most influential visual token", range(len(strongest)), strongest)
        return [
            PatchMap("Influence of each visual token", "log10(1 - cosine)", values, SCALE, words),
            Figure(
                "The strongest influence in each layer",
                words,
                "layer",
                "log10(1 - cosine)",
                (line,),
                marks={name: layer for name, layer in marks.items() if layer is not None},
            ),
        ]


class _Tests(Observer):
    def __init__(self):
        self.cos, self.l2, self.norm = [], [], []

    def observe(self, view):
        if not len(view.visual_rows):
            nothing = (None,) * view.layout.num_visual
            found = nothing, nothing, None
        else:
            test = view.influence()
            found = per_patch(view, test.cos), per_patch(view, test.l2), test.norm
        for kept, value in zip((self.cos, self.l2, self.norm), found, strict=True):
            kept.append(value)


def _turn(cos: float) -> float:
    return math.log10(max(1 - cos, 10 ** SCALE[0]))


def _strongest(result: Influences) -> str:
    found = [(*low, layer) for layer, low in enumerate(result.lowest) if low]
    if not found:
        return "No visual token was tested."
    cos, patch, layer = min(found)
    return (
        "How far the last prompt token's attention output turns without each visual token. "
        f"Patch {patch} turns it most, in layer {layer}: cosine {cos:.4f}."
    )


def _visipruner(result: Influences) -> str:
    name = f"VisiPruner at “{result.level}”"
    if result.filtering_layer is None:
        return f"{name} finds no filtering layer here and drops nothing."
    few = f"{result.kept} visual token{'' if result.kept == 1 else 's'}"
    first = f"{name} keeps {few} after its filtering layer {result.filtering_layer}"
    if result.exit_layer is None:
        # The unpruned model may have none in its last layers, if it was trained so.
        to_the_end = any(c is not None for c in result.cos[-1])
        end = "to the end" if to_the_end else "as long as this model has any"
        return f"{first}, and {'it stays' if result.kept == 1 else 'they stay'} {end}."
    them = "it" if result.kept == 1 else "them"
    return f"{first}, and drops {them} after its exit layer {result.exit_layer}."
