"""What a method may look at: the state of a run before and after a layer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import SimpleNamespace

import torch
from torch import Tensor

from visipruner.attention import NEAR, Watch, attention_row, cosines_near, influence
from visipruner.errors import Refused
from visipruner.layout import Range, Rows, TokenLayout
from visipruner.stock import DynamicLayer
from visipruner.trace import Influence, LayerRecord, PruningTrace, Selection


@dataclass(frozen=True)
class LayerInput:
    """What a method may look at before a layer runs.

    Rows are the tokens that the layer computes: 0..len(positions)-1.
    """

    layer: int  # -1: the door before the first layer
    num_layers: int
    layout: TokenLayout
    rows: Rows
    memory: SimpleNamespace  # the method's own, born and gone with the run
    trace: PruningTrace
    record: LayerRecord | None

    @property
    def positions(self) -> Tensor:
        """(rows,) on the CPU: each row's place in the prompt."""
        return self.rows.positions

    @property
    def visual_rows(self) -> Tensor:
        """(visual tokens present,) on the CPU: the rows that hold visual tokens."""
        return self.rows.visual

    @property
    def patches(self) -> Tensor:
        """(visual tokens present,) on the CPU: which visual tokens they are."""
        return self.rows.patches

    @property
    def visual_ranges(self) -> tuple[Range, ...]:
        """`visual_rows` as ranges."""
        return self.rows.visual_ranges

    @property
    def text_ranges(self) -> tuple[Range, ...]:
        """Rows of every token that is not visual, as ranges."""
        return self.rows.text_ranges

    def keep_patches(self, patches: Tensor, stage: str, **more) -> Selection:
        """The selection that keeps all text and, of the visual tokens present, these patches."""
        keep = [self.layout.visual[patch] for patch in patches.tolist()]
        for start, stop in self.text_ranges:
            keep += self.positions[start:stop].tolist()
        return Selection(tuple(sorted(keep)), stage, **more)


@dataclass(frozen=True)
class LayerView(LayerInput):
    """What a method may look at after a layer (or, at the door, before the first).

    Tensors are the run's own: they hold until the next layer runs, so copy what must be kept.
    """

    hidden: Tensor  # (1, rows, width): the layer's output, or the embeddings at the door
    watch: Watch | None = None  # of the layer's attention, while visual tokens are there
    cache: DynamicLayer | None = None  # read through keys and values only

    @property
    def keys(self) -> Tensor:
        """(1, kv heads, rows, head width), rotated."""
        return self.cache.keys

    @property
    def values(self) -> Tensor:
        """(1, kv heads, rows, head width)."""
        return self.cache.values

    def attention_row(self) -> Tensor:
        """(heads, rows) float32: softmax weights of the last prompt token in this layer.

        Raises:
            ValueError: where no visual token is left; attention is watched only up to there.
            Refused: if the model computed something that is not a number.
        """
        row = self._row()
        self._check_numbers(row.sum())
        return row

    def _row(self) -> Tensor:
        if self.watch is None:
            raise ValueError("Attention is watched only while visual tokens are there.")
        row = attention_row(self.watch.query, self.watch.scaling, self.keys)
        self.record.probe_flops += 2 * row.numel() * self.keys.shape[-1]
        return row

    def influence(self) -> Influence:
        """The influence test on every visual token present; also noted in the layer's record.

        A cosine is right to 1e-12 whatever share of the output its token carries.

        Raises:
            ValueError: where no visual token is left.
            Refused: if the model computed something that is not a number.
        """
        if self.record.influence is None:
            # One copy to the host per tested layer: the decision needs the numbers there.
            result = self._test().detach().cpu()  # a trace must not keep a graph of gradients
            cos, l2 = found = result[:-1].view(2, -1).index_select(1, self.visual_rows)
            self._check_numbers(found.sum() + result[-1])
            norm = result[-1].item()
            if l2.max().item() >= (1 - NEAR) * norm:  # rare
                self._look_closer(cos, l2, norm)
            self.record.influence = Influence(self.patches, cos, l2, norm)
        return self.record.influence

    def _check_numbers(self, total: Tensor):
        """total: a sum, which is NaN if any part is. It is never infinity less infinity."""
        if math.isnan(total.item()):
            raise Refused(
                f"Layer {self.layer} computed something that is not a number (NaN), so no token "
                "can be chosen by it: the model's weights are damaged, or too large for their "
                "precision."
            )

    def _test(self) -> Tensor:
        """Cosine and L2 of every row, one after the other, and the norm of all."""
        row = self._row()
        self.record.probe_flops += 4 * row.numel() * self.values.shape[-1]
        cos, l2, norm = influence(row, self.values)
        return torch.cat([cos, l2, norm[None]])

    def _look_closer(self, cos: Tensor, l2: Tensor, norm: float):
        """Compute anew, in place, the cosines of tokens that may be nearly all of the output."""
        near = ((l2 - norm).abs() <= NEAR * norm).nonzero().flatten()
        if not len(near):
            return
        row = self._row()
        self.record.probe_flops += 2 * row.numel() * self.values.shape[-1] * len(near)
        cos[near] = cosines_near(row, self.values, self.visual_rows[near]).detach().cpu()
