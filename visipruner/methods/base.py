"""The base of pruning methods: settings and six moments, each of which may return None."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from types import SimpleNamespace
from typing import ClassVar, Self

from torch import Tensor

from visipruner.attention import Plan
from visipruner.errors import Refused
from visipruner.levels import Facts, budget
from visipruner.settings import FLAG, check_settings, setting
from visipruner.trace import PruningTrace, Selection
from visipruner.view import LayerInput, LayerView

BEFORE, INSIDE = "before the language model", "inside the language model"
TOO_LATE = "Nothing was dropped: the cut comes after the last layer, with nothing left to save."


@dataclass(frozen=True)
class PruningMethod:
    """The baseline: keeps everything. Methods are frozen; a run's state is in its `memory`.

    Each run makes a new memory. It holds `entered`, the number of visual tokens when the method was
    first called, and `cuts`, the method's executed selections.
    """

    name: ClassVar[str] = "none"
    title: ClassVar[str] = "No pruning (both sides the same)"
    paper: ClassVar[str] = ""  # where the rule was published
    source: ClassVar[str] = ""  # the published code that we read or ran
    rule: ClassVar[str] = "keeps everything"  # one sentence, for the page and the README
    where: ClassVar[str] = INSIDE
    # Does it need every visual token of the prompt, and so come first in a stack?
    whole: ClassVar[bool] = False
    # Does it adapt to the question, so that its budgets are measured on each model?
    adapts: ClassVar[bool] = False
    # Of "tower", what the vision tower computes, and "clip_text", CLIP's embeddings.
    needs: ClassVar[frozenset[str]] = frozenset()
    # The page's words for layers after a cut of this stage, or with this label.
    stage_words: ClassVar[Mapping[str, str]] = {}

    # -- from a level or budget to settings

    @classmethod
    def at_level(cls, level: float, facts: Facts, given: Mapping) -> Self:
        """The method at a level from 0, which keeps everything, to 1.

        Args:
            given: fields that the person set as well; most methods ignore them.
        """
        return cls.for_budget(max(budget(level, facts), cls.least(facts)), facts)

    @classmethod
    def for_budget(cls, tokens: float, facts: Facts) -> Self:
        """The method that keeps a mean of `tokens` visual tokens per layer.

        Raises:
            Refused: the budget is below the method's least, or it has no such setting.
        """
        return cls()

    @classmethod
    def least(cls, facts: Facts) -> float:
        """The smallest budget that the method can be given."""
        few = cls.reachable(facts)
        return 0.0 if few is None else min(few)

    @classmethod
    def check_budget(cls, tokens: float, facts: Facts):
        """Raise `Refused` for a budget below the method's least."""
        if tokens < cls.least(facts):
            wish, least = map(facts.over_all, (tokens, cls.least(facts)))
            raise Refused(
                f"{cls.title.partition(':')[0]} cannot use as few as {wish:g} visual tokens per "
                f"layer on this model; its least is {least:.1f}."
            )

    @classmethod
    def reachable(cls, facts: Facts) -> Sequence[float] | None:
        """The only budgets that the method can be given, if they are few; None: any from `least`.

        `for_budget` takes the nearest of them.
        """
        return None

    # -- checks across settings

    def __post_init__(self):
        check_settings(self)
        self.check()

    def check(self):
        """Check what involves several settings, such as lists of equal length.

        Raises:
            Refused: one sentence.
        """

    def check_for(self, facts: Facts):
        """Check the settings against a model and a prompt, before anything runs.

        Raises:
            Refused: one sentence.
        """

    # -- on a model with a schedule of its own (methods/trained.py)

    @property
    def cuts_after(self) -> tuple[int, ...]:
        """The layers after which the settings say that it cuts; -1: before layer 0."""
        return ()

    def within(self, facts: Facts) -> Self:
        """The method made for `facts.inside`, moved to the layers that compute visual tokens."""
        return self

    def check_span(self, facts: Facts):
        """Check that it cuts in layers where the model has visual tokens.

        Raises:
            Refused: one sentence.
        """
        for layer in self.cuts_after:
            if layer >= 0:
                check_cut(self.title.partition(":")[0], layer, facts)

    # -- the moments of a run

    def encode(self, view: LayerView) -> Selection | None:
        """Before layer 0: which tokens enter the language model. None: all."""

    def attend(self, view: LayerInput) -> Plan | None:
        """Before a layer, in prefill: its attention plan. None: plain causal attention."""

    def queries(self, view: LayerInput) -> Tensor | None:
        """Before a layer: (n,) rows whose attention `select` will ask for. None: only the last."""

    def select(self, view: LayerView) -> Selection | None:
        """After a layer: which tokens go on to the next. None: all."""

    def cached(
        self, layer: int, trace: PruningTrace, memory: SimpleNamespace
    ) -> Collection[int] | None:
        """When prefill ends: ids of the visual tokens that stay in a layer's cache. None: all."""

    def explain(self, trace: PruningTrace, memory: SimpleNamespace) -> tuple[str, dict]:
        """When prefill ends: a sentence about what was carried out, and notes for the trace."""
        return "", {}

    @property
    def settings(self) -> dict:
        """The fields as JSON values."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}


def renumbering(default: bool):
    """The field for the positions of what stays: 0, 1, 2, ... or the original ones."""
    return setting(default, "Renumber what stays", FLAG)


def check_one_picture(view: LayerView, title: str, patches: int):
    """Check that a method which reads the vision tower sees one whole picture in a row.

    Args:
        patches: of the picture in the tower.

    Raises:
        Refused: one sentence.
    """
    present = len(view.visual_rows)
    if present != patches or len(view.visual_ranges) != 1:
        raise Refused(
            f"{title} needs one whole picture, {patches} visual tokens in a row; {present} are "
            "there. In a stack it comes first."
        )


def stayed(count: int, how: str) -> str:
    """The sentence about the visual tokens that stayed."""
    if not count:
        return "No visual token stayed."
    return f"{count} visual token{'' if count == 1 else 's'} stayed, {how}."


def explain_one_cut(trace: PruningTrace, memory: SimpleNamespace, how: str) -> str:
    """The sentence of a method that cuts once."""
    if not trace.num_visual:
        return ""
    if not memory.cuts:
        return TOO_LATE
    return stayed(len(memory.cuts[0].visual), how)


def check_stages(layers: tuple[int, ...], name: str, values: tuple):
    """Check the stages of a method that cuts after several layers, with one value for each.

    Raises:
        Refused: one sentence.
    """
    if len(layers) != len(values):
        raise Refused(
            f"{name} must have as many numbers as layers, {len(layers)}, not {len(values)}."
        )
    if list(layers) != sorted(set(layers)):
        raise Refused("layers must be ascending and distinct.")


def check_cut(title: str, layer: int, facts: Facts):
    """Check that a model has visual tokens in a layer and in the next one.

    Raises:
        Refused: one sentence.
    """
    if facts.enter <= layer < facts.last:
        return
    where = f"layers {facts.enter} to {facts.last}" if facts.span > 1 else f"layer {facts.enter}"
    choose = f": choose from {facts.enter} to {facts.last - 1}" if facts.span > 1 else ""
    raise Refused(
        f"{title} would cut after layer {layer}, but this model has visual tokens only in {where}"
        f"{choose}."
    )


def stages_within(
    layers: tuple[int, ...], values: tuple, facts: Facts, last: int
) -> tuple[tuple[int, ...], tuple]:
    """Stages of `facts.inside` as layers of the model; those after `last` save nothing and go."""
    moved = [(facts.enter + layer, v) for layer, v in zip(layers, values, strict=True)]
    kept = [(layer, value) for layer, value in moved if layer <= last]
    return tuple(layer for layer, _ in kept), tuple(value for _, value in kept)
