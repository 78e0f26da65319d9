"""What a method may read: the state of a run before layer 0, and before and after each layer."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from visipruner.attention import (
    NEAR,
    Noted,
    Watch,
    as_one,
    attention_row,
    attention_rows,
    cosines_near,
    influence,
    peek,
)
from visipruner.errors import Refused
from visipruner.flops import ModelShape
from visipruner.layout import Range, Rows, TokenLayout
from visipruner.stock import DynamicLayer, output_projection
from visipruner.tower import Clip, Tower
from visipruner.trace import Influence, LayerRecord, PruningTrace, Selection


@dataclass(frozen=True)
class Parts:
    """The parts of a language model that methods may use."""

    layers: Sequence[nn.Module]
    norm: nn.Module  # the final norm
    head: nn.Module | None  # from states to logits; None for a decoder without one
    config: object  # the language model's config

    @cached_property
    def shape(self) -> ModelShape:
        return ModelShape.of(self.config)


@dataclass(frozen=True)
class LayerInput:
    """What a method may read before a layer runs.

    Rows are the tokens that the layer computes: 0..len(tokens)-1.
    """

    layer: int  # -1: before layer 0
    num_layers: int
    layout: TokenLayout
    rows: Rows
    memory: SimpleNamespace  # the method's own; it lives as long as the run
    trace: PruningTrace  # read only
    record: LayerRecord | None
    parts: Parts | None = None

    @property
    def tokens(self) -> Tensor:
        """(rows,) on the CPU: token ids; an id below the prompt's length is an index into it."""
        return self.rows.tokens

    @property
    def places(self) -> Tensor:
        """(rows,) on the CPU: each row's position for the rotary embedding."""
        return self.rows.place

    @property
    def visual_rows(self) -> Tensor:
        """(visual tokens present,) on the CPU: the rows that hold visual tokens."""
        return self.rows.visual

    @property
    def visual_tokens(self) -> Tensor:
        """(visual tokens present,) on the CPU: their token ids."""
        return self.tokens[self.visual_rows]

    @property
    def patches(self) -> Tensor:
        """(visual tokens present,) on the CPU: their patches, or NO_PATCH."""
        return self.rows.patches

    @property
    def visual_ranges(self) -> tuple[Range, ...]:
        """`visual_rows` as ranges."""
        return self.rows.visual_ranges

    @property
    def text_ranges(self) -> tuple[Range, ...]:
        """Rows of every token that is not visual, as ranges."""
        return self.rows.text_ranges

    @property
    def entered(self) -> int:
        """How many visual tokens were present when this method was first called."""
        return self.memory.entered

    @property
    def free_token(self) -> int:
        """The first unused token id, for tokens that a method makes."""
        return max(self.layout.length, int(self.tokens.max()) + 1)

    def label(self, stage: str):
        """Name this layer's stage; the page shows it."""
        self.record.stage = stage

    def keep_visual(self, chosen: Tensor, stage: str, **more) -> Selection:
        """The selection that keeps all text and these of the visual tokens present.

        Args:
            chosen: (kept,) ascending indices into `visual_rows`.
            more: further arguments of `Selection`.
        """
        stays = self.rows.is_text.clone()
        stays[self.visual_rows[chosen]] = True
        return Selection(tuple(self.tokens[stays].tolist()), stage, **more)


@dataclass(frozen=True)
class LayerView(LayerInput):
    """What a method may read after a layer, or before layer 0.

    The tensors belong to the run and are valid until the next layer runs: copy what you keep.
    Methods here that multiply matrices count their FLOPs.
    """

    hidden: Tensor = field(kw_only=True)  # (1, rows, width): the layer's output, or the embeddings
    # Of the layer's attention. A method's is None when no visual token is present.
    watch: Watch | Noted | None = None
    cache: DynamicLayer | None = None  # read through keys and values only
    turns: tuple[Tensor, Tensor] | None = None  # cosines and sines of the rows' places
    noted: Tower | None = None  # what the vision tower computed, for methods that need it
    given_clip: Clip | None = None  # as it was handed to prune()

    # -- what the layer computed

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
            ValueError: no visual token is left; attention is watched only while some are present.
            Refused: if the model computed something that is not a number.
        """
        row = self._row()
        self._check_numbers(row.sum())
        return row

    def _row(self) -> Tensor:
        self._check_watched()
        row = attention_row(self.watch.query, self.watch.scaling, self.keys)
        self.spend(2 * row.numel() * self.keys.shape[-1])
        return row

    def attention_rows(self) -> Tensor:
        """(heads, queries, rows) float32: softmax weights of the rows that `queries` asked for.

        Raises:
            ValueError: no visual token is left, or `queries` asked for no rows.
            Refused: if the model computed something that is not a number.
        """
        self._check_watched()
        self._check_asked()
        return self._rows_between(0, len(self.watch.query_rows))

    def attention_blocks(self, size: int = 64) -> Iterator[tuple[Tensor, Tensor]]:
        """As `attention_rows`, but at most `size` of the queries at a time, to save memory.

        Yields:
            (n,) the rows that ask, and (heads, n, rows) float32, their weights.
        """
        self._check_watched()
        self._check_asked()
        asked = self.watch.query_rows
        for start in range(0, len(asked), size):
            yield asked[start : start + size], self._rows_between(start, start + size)

    def _rows_between(self, start: int, stop: int) -> Tensor:
        noted = self.watch
        queries, asked = noted.queries[:, :, start:stop], noted.query_rows[start:stop]
        rows = attention_rows(queries, noted.scaling, self.keys, asked)
        self.spend(2 * rows.numel() * self.keys.shape[-1])
        self._check_numbers(rows.sum())
        return rows

    def _check_asked(self):
        if self.watch.queries is None:
            raise ValueError("No queries were asked for before this layer.")

    def _check_watched(self):
        if self.watch is None:
            raise ValueError("Attention is watched only while visual tokens are there.")

    def next_attention_row(self) -> Tensor:
        """(heads, rows) float32: softmax weights of the last row over all rows in the *next* layer.

        The next layer starts on `hidden` and stops when it asks for its attention function, so this
        costs three projections.
        """
        query, scaling, keys = peek(self.parts.layers[self.layer + 1], self.hidden, self.turns)
        row = attention_row(query, scaling, keys)
        shape = self.parts.shape
        projections = len(self.tokens) * shape.width * (shape.query_width + 2 * shape.kv_width)
        self.spend(2 * projections + 2 * row.numel() * keys.shape[-1])
        self._check_numbers(row.sum())
        return row

    def influence(self) -> Influence:
        """The influence test on every visual token present; also noted in the layer's record.

        A cosine is exact to 1e-12, whatever share of the output its token carries.

        Raises:
            ValueError: no visual token is left.
            Refused: if the model computed something that is not a number.
        """
        noted = self.record.influence
        if noted is not None and not noted.on_question:
            return noted
        found = self._influence(self._test, self._row)
        if noted is None:
            self.record.influence = found
        return found

    def influence_on_question(self) -> Influence:
        """The same test on all rows that `queries` asked for together, instead of the last one.

        Their outputs lie behind each other, each as long as the last one (`attention.as_one`). The
        layer's record notes this test and not the other, for it decides.

        Raises:
            ValueError: no visual token is left, or `queries` asked for no rows.
            Refused: if the model computed something that is not a number.
        """
        noted = functools.cache(self._question_rows)
        found = self._influence(lambda: self._tested(noted()), noted)
        found.on_question = True
        self.record.influence = found
        return found

    def _question_rows(self) -> Tensor:
        """(heads * n, rows) float64"""
        weights = self.attention_rows()
        self.spend(2 * weights.numel() * self.values.shape[-1])
        return as_one(weights, self.values)

    def _influence(self, test: Callable[[], Tensor], row: Callable[[], Tensor]) -> Influence:
        """What a test says of the visual tokens; `row` has the weights for a closer look."""
        if not len(self.visual_rows):
            raise ValueError("No visual token is left to test.")
        # One copy to the host per tested layer: the decision is made on the CPU.
        result = test().detach().cpu()  # a trace must not keep an autograd graph
        cos, l2 = found = result[:-1].view(2, -1).index_select(1, self.visual_rows)
        self._check_numbers(found.sum() + result[-1])
        norm = result[-1].item()
        if l2.max().item() >= (1 - NEAR) * norm:  # rare
            self._look_closer(cos, l2, norm, row)
        return Influence(self.patches, cos, l2, norm)

    def _check_numbers(self, total: Tensor):
        """total: a sum, which is NaN if any term is. No sum here adds opposite infinities."""
        if math.isnan(total.item()):
            raise Refused(
                f"Layer {self.layer} computed something that is not a number (NaN), so no token "
                "can be chosen by it: the model's weights are damaged, or too large for their "
                "precision."
            )

    def _test(self) -> Tensor:
        """One tensor: the cosines of all rows, then their L2 norms, then ||O||."""
        return self._tested(self._row())

    def _tested(self, row: Tensor) -> Tensor:
        self.spend(4 * row.numel() * self.values.shape[-1])
        cos, l2, norm = influence(row, self.values)
        return torch.cat([cos, l2, norm[None]])

    def _look_closer(self, cos: Tensor, l2: Tensor, norm: float, row: Callable[[], Tensor]):
        """Recompute, in place, the cosines of tokens that may carry nearly all of the output."""
        near = ((l2 - norm).abs() <= NEAR * norm).nonzero().flatten()
        if not len(near):
            return
        row = row()
        self.spend(2 * row.numel() * self.values.shape[-1] * len(near))
        cos[near] = cosines_near(row, self.values, self.visual_rows[near]).detach().cpu()

    # -- final norm and logits

    def final_norm(self, states: Tensor) -> Tensor:
        """The language model's final norm; same shape."""
        return self.parts.norm(states)

    def logits(self, states: Tensor) -> Tensor:
        """(..., vocabulary) for (..., width): the model's logits for these states."""
        shape = self.parts.shape
        self.spend(2 * states[..., 0].numel() * shape.width * shape.vocabulary)
        return self.parts.head(self.parts.norm(states))

    def through_output(self, vectors: Tensor) -> Tensor:
        """(n, width) for (n, heads * head width): this layer's output projection, without its bias.

        The module is called, so that it may be quantised.
        """
        project = output_projection(self.parts.layers[self.layer])
        shape = self.parts.shape
        # A batch of one, as in the layer. The zeros give the bias, which belongs to no head.
        zeros = torch.zeros_like(vectors[:1])
        result = project(torch.cat([vectors, zeros])[None])[0]
        self.spend(2 * (len(vectors) + 1) * shape.width * shape.query_width)
        return result[:-1] - result[-1:]

    # -- the vision tower, before layer 0

    @property
    def tower(self) -> Tower:
        """What the vision tower computed.

        Raises:
            ValueError: the method does not name "tower" among its needs.
        """
        if self.noted is None:
            raise ValueError("Only methods that need the tower may ask for it.")
        return self.noted

    @property
    def clip(self) -> Clip:
        """CLIP's embeddings of the picture's patches and of what is asked.

        Raises:
            ValueError: `prune` got no `clip`, or layer 0 has begun.
        """
        if self.given_clip is None:
            raise ValueError('Only methods that need "clip_text" may ask for CLIP, before layer 0.')
        return self.given_clip

    def project(self, vectors: Tensor) -> Tensor:
        """(n, width of the language model) for (n, width of the tower): embeddings.

        Raises:
            Refused: the model has no projector.
            ValueError: as `tower`.
        """
        projector = self.tower.projector
        if projector is None:
            raise Refused("This model has no projector from a vision tower.")
        linear = [m for m in projector.modules() if isinstance(m, nn.Linear)]
        macs = sum(layer.in_features * layer.out_features for layer in linear)
        self.spend(2 * len(vectors) * macs)
        return projector(vectors)

    # -- counting FLOPs and drawing random numbers

    def spend(self, flops: int):
        """Count FLOPs that the method itself spends."""
        if self.record is None:
            self.trace.door_flops += flops
        else:
            self.record.probe_flops += flops

    def noise(self, seed: int, count: int) -> Tensor:
        """(count,) float32 on the CPU, uniform in [0, 1), fixed by the seed."""
        generator = torch.Generator("cpu").manual_seed(seed)
        return torch.rand(count, generator=generator, device="cpu")
