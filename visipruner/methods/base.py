"""What a pruning method is: hyper-parameters and four moments, all of which may stay silent."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from visipruner.attention import Plan
from visipruner.layout import TokenLayout
from visipruner.trace import LayerRecord, PruningTrace, Selection

if TYPE_CHECKING:
    from visipruner.engine import LayerView


@dataclass(frozen=True)
class LayerInput:
    """What a method may look at before a layer runs.

    Rows are the tokens that the layer computes: 0..len(positions)-1. `positions[row]` is the row's
    place in the prompt; `visual_rows` are the rows that hold visual tokens and `patches` which.
    """

    layer: int  # -1: the door before the first layer
    num_layers: int
    layout: TokenLayout
    positions: Tensor  # (rows,) on the CPU
    visual_rows: Tensor  # (visual tokens present,) on the CPU
    patches: Tensor  # (visual tokens present,) on the CPU
    memory: SimpleNamespace  # the method's own, born and gone with the run
    trace: PruningTrace
    record: LayerRecord | None

    @property
    def text_rows(self) -> Tensor:
        """Rows of every token that is not visual."""
        is_text = self.positions.new_ones(len(self.positions), dtype=bool)
        is_text[self.visual_rows] = False
        return is_text.nonzero().flatten()

    def keep_patches(self, patches: Tensor, stage: str, **more) -> Selection:
        """The selection that keeps all text and, of the visual tokens present, these patches."""
        visual = self.positions.new_tensor(self.layout.visual)
        keep = [self.positions[self.text_rows], visual[patches.cpu()]]
        return Selection(tuple(sorted(keep[0].tolist() + keep[1].tolist())), stage, **more)


@dataclass(frozen=True)
class PruningMethod:
    """The baseline: keeps everything. Methods are frozen; what a run learns lives in its `memory`.

    A new method is one file with a subclass, one line in METHODS, one row in the test matrix and
    one line in the README.
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
