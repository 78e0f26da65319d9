"""A model's own schedule: the layers in which it was trained to see its visual tokens.

A checkpoint names it in its presets.json: `"schedule": {"enter": 3, "leave": 5}`. It runs in every
run of that model, also in the baseline, as the last method of the stack: methods before the
language model choose among all tokens, and what they keep enters late. In the layers both cut.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import ClassVar

from visipruner.errors import Refused
from visipruner.inputs import check_number
from visipruner.levels import Facts
from visipruner.methods.base import INSIDE, PruningMethod
from visipruner.settings import INT, setting
from visipruner.trace import TRAINED, Selection

IN_PRESETS = "schedule"  # its field in presets.json


@dataclass(frozen=True)
class Trained(PruningMethod):
    """Visual tokens enter before layer `enter` and leave after layer `leave`.

    Args:
        enter: the first layer that computes visual tokens; None or 0: layer 0.
        leave: the last one; None: the last layer of the model.
    """

    name: ClassVar[str] = TRAINED
    title: ClassVar[str] = "Trained schedule"
    rule: ClassVar[str] = "the layers in which the model was trained to see its visual tokens"
    stage_words: ClassVar[Mapping[str, str]] = {"exit": "No vision", "enter": "Entered"}

    enter: int | None = setting(
        None, "Patches enter before this layer", INT, low=0, high=999, optional=True
    )
    leave: int | None = setting(
        None, "No patch is left after this layer", INT, low=0, high=999, optional=True
    )

    @classmethod
    def of(cls, presets: Mapping) -> Trained | None:
        """The schedule that a presets.json names; None: it names none.

        Raises:
            Refused: says what is wrong.
        """
        if IN_PRESETS not in presets:
            return None
        given = presets[IN_PRESETS]
        known = [field.name for field in fields(cls)]
        if not isinstance(given, dict) or not given or set(given) - set(known):
            raise Refused(f"schedule must be an object with {' or '.join(known)}, or both.")
        for name, value in given.items():
            check_number(f"{name} of the schedule", value, 0, 999, integer=True)
        return cls(**given)

    def check(self):
        if self.enter and self.leave is not None and self.leave < self.enter:
            raise Refused(
                f"leave of the schedule must be at least enter, {self.enter}, not {self.leave}."
            )

    def check_layers(self, layers: int):
        """Check the schedule against the number of a model's layers.

        Raises:
            Refused: it names a layer that the model lacks.
        """
        for name in ("enter", "leave"):
            layer = getattr(self, name)
            if layer is not None and layer >= layers:
                raise Refused(
                    f"{name} of the schedule must be from 0 to {layers - 1}, because the model has "
                    f"{layers} layers; it is {layer}."
                )

    @property
    def sentence(self) -> str:
        """What a person must know about such a model."""
        when = [f"enter at layer {self.enter}"] if self.enter else []
        when += [f"leave after layer {self.leave}"] if self.leave is not None else []
        return f"This model was trained so: its visual tokens {' and '.join(when) or 'stay'}."

    @property
    def notes(self) -> tuple[str, str]:
        """The same for a run, and how its FLOPs are counted."""
        return self.sentence, "Savings are counted against all tokens in all layers."

    def serves(self, kind: type[PruningMethod], facts: Facts) -> str:
        """Why a model with this schedule cannot be pruned by a method; empty: it can."""
        if facts.span > 1 or kind.where != INSIDE or kind is PruningMethod:
            return ""
        return (
            f"{kind.title.partition(':')[0]} prunes between layers with visual tokens, and this "
            f"model has them in layer {facts.enter} alone."
        )

    def encode(self, view):
        if not self.enter:
            return None
        text = view.tokens[view.rows.is_text].tolist()
        return Selection(tuple(text), "wait", enter=self.enter)

    def select(self, view):
        if view.layer == self.leave and len(view.visual_rows):
            return view.keep_visual(view.visual_rows[:0], "exit")
        return None

    def explain(self, trace, memory):
        return (self.sentence if trace.num_visual else ""), {}


# -- levels and budgets on such a model


def method_for(
    kind: type[PruningMethod],
    level: float | None,
    tokens: float | None,
    facts: Facts,
    given: Mapping = MappingProxyType({}),
) -> PruningMethod:
    """The method at a level or, if that is None, at a budget.

    On a model with a schedule of its own, published layers are scaled to the layers that compute
    visual tokens. A level means the same share there; a budget is a mean over all layers.
    """
    if facts.scheduled and kind.adapts:
        wished = facts  # its budgets were measured on the whole model
    else:
        wished, tokens = facts.inside, tokens and tokens * facts.layers / facts.span
    if tokens is None:
        method = kind.at_level(level, wished, given)
    else:
        method = kind.for_budget(tokens, wished)
    return method.within(facts) if facts.scheduled else method


def least_of(kind: type[PruningMethod], facts: Facts) -> float:
    """The smallest budget of a method, as a mean over all layers of the model."""
    return facts.inside.over_all(kind.least(facts.inside))


def reachable_of(kind: type[PruningMethod], facts: Facts) -> Sequence[float] | None:
    """The only budgets of a method, if they are few, as means over all layers of the model."""
    few = kind.reachable(facts.inside)
    return few and [facts.inside.over_all(tokens) for tokens in few]
