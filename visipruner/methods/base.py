"""What a pruning method is: hyper-parameters and six moments, all of which may stay silent."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass
from types import SimpleNamespace
from typing import ClassVar

from torch import Tensor

from visipruner.attention import Plan
from visipruner.settings import check_settings
from visipruner.trace import PruningTrace, Selection
from visipruner.view import LayerInput, LayerView

TOO_LATE = "Nothing was dropped: the cut comes after the last layer, with nothing left to save."


@dataclass(frozen=True)
class PruningMethod:
    """The baseline: keeps everything. Methods are frozen; what a run learns lives in its `memory`.

    A memory is born with the run. In it stand `entered`, how many visual tokens there were when the
    method first looked, and `cuts`, what was carried out of its selections.
    """

    name: ClassVar[str] = "none"
    needs: ClassVar[frozenset[str]] = frozenset()  # of "tower": what beside the language model

    def __post_init__(self):
        check_settings(self)
        self.check()

    def check(self):
        """What no single setting can say: lists of equal length, say.

        Raises:
            Refused: one sentence.
        """

    def encode(self, view: LayerView) -> Selection | None:
        """Before the first layer: which tokens enter the language model at all. None: all."""

    def attend(self, view: LayerInput) -> Plan | None:
        """Before a layer, in prefill: who sees whom in it. None: plain causal attention."""

    def queries(self, view: LayerInput) -> Tensor | None:
        """Before a layer: (n,) rows whose attention `select` will ask for. None: the last alone."""

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
        """The fields as JSON knows them."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}


def stayed(count: int, how: str) -> str:
    """The sentence about visual tokens that stayed."""
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
