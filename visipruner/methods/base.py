"""What a pruning method is: hyper-parameters and four moments, all of which may stay silent."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import ClassVar

from visipruner.attention import Plan
from visipruner.trace import PruningTrace, Selection
from visipruner.view import LayerInput, LayerView

TOO_LATE = "Nothing was dropped: the cut comes after the last layer, with nothing left to save."


def too_late(view: LayerView, after_layer: int) -> bool:
    """Whether the model ends here without the cut that was to come; then the trace says so."""
    last = view.num_layers - 1
    if view.layer < last or after_layer < last:
        return False
    view.trace.why = TOO_LATE
    return True


def stayed(count: int, how: str) -> str:
    """The sentence of a trace about so many visual tokens that stayed."""
    if not count:
        return "No visual token stayed."
    return f"{count} visual token{'' if count == 1 else 's'} stayed, {how}."


@dataclass(frozen=True)
class PruningMethod:
    """The baseline: keeps everything. Methods are frozen; what a run learns lives in its `memory`.

    A new method is one file with a subclass, one line in METHODS, its words in ui/text.py, its
    levels in levels.py, one row in the test matrix and one line in the README.
    """

    name: ClassVar[str] = "none"

    def encode(self, view: LayerView) -> Selection | None:
        """Before the first layer: which tokens enter the language model at all. None: all."""

    def attend(self, view: LayerInput) -> Plan | None:
        """Before a layer, in prefill: who sees whom in it. None: plain causal attention."""

    def select(self, view: LayerView) -> Selection | None:
        """After a layer: which tokens go on to the next. None: all."""

    def cached(self, layer: int, trace: PruningTrace) -> list[int] | None:
        """When prefill ends: patches that `layer` keeps in its cache. None: all it computed."""

    @property
    def settings(self) -> dict:
        """The fields as JSON knows them."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}
