"""Run the rows after the picture again, from any layer, with the picture masked or not.

A mask of visual keys cannot change rows that no text query of the picture precedes: the prefix sees
no visual token anyway, and visual queries are not masked. So a masked run differs from the unmasked
one only from the first text token after the picture on. These few rows are computed again, beside
the keys and values that the unmasked run left for all rows before them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from visipruner.analyses.asking import Said, ask, log_shares
from visipruner.attention import Range
from visipruner.errors import Refused
from visipruner.layout import TokenLayout
from visipruner.methods.base import PruningMethod
from visipruner.stock import DynamicCache, attention_backend, run_layer


def check_rerun(vlm, prompt):
    """Check that the rows after the picture can run again by themselves.

    Raises:
        Refused: no text after the visual tokens, or an attention function without masks.
    """
    if vlm.schedule and len(prompt.layout.spans) > 1:
        raise Refused("Masking needs one picture where a model's visual tokens enter or leave.")
    if prompt.layout.visual[-1] == prompt.layout.length - 1:
        raise Refused("Masking needs a text token after the picture.")
    if attention_backend(vlm.parts.decoder) not in ("sdpa", "eager"):
        raise Refused("Masking needs a model that was loaded with sdpa or eager attention.")


class Rerun:
    """An unmasked run, and what its rows after the picture need to run again.

    Args:
        said: the unmasked answer's first word.
        states: per layer its input, (1, rows from `start`, width).
        sees: per layer: does it compute visual tokens? Not in every one, if the model has a
            schedule of its own.
    """

    def __init__(self, vlm, prompt, features, beat=lambda: None):
        self.layers, self.vlm = vlm.parts.layers, vlm
        layout = prompt.layout
        self.start = layout.spans[0][1]  # the first row that a mask can change
        notes = _Notes(self.start)
        self.said: Said = ask(vlm, notes, prompt, features, 1, beat)
        self.states = [states for states, *_ in notes.found]
        self.before = [pair for _, *pair, _, _ in notes.found]
        self.turns, self.sees = notes.found[0][-2], [note[-1] for note in notes.found]
        dtype, device = self.states[0].dtype, self.states[0].device
        self.masks = {masked: _mask(layout, self.start, masked, dtype, device) for masked in (0, 1)}
        self.text = sorted(set(range(layout.length)) - set(layout.visual))

    @torch.inference_mode()
    def through(self, states: Tensor, layers: Range, masked: bool = False) -> Tensor:
        """The rows' states after some layers; same shape.

        Args:
            states: (1, rows from `start`, width), the input of the first of them.
            layers: (first, last + 1).
        """
        for index in range(*layers):
            cache = DynamicCache()
            cache.update(*self.before[index], index)
            layer, mask = self.layers[index], self.masks[masked]
            if not self.sees[index]:
                mask = mask[..., self.text]
            states = run_layer(layer, states, self.turns, cache, mask=mask)
        return states

    @torch.inference_mode()
    def first_word(self, states: Tensor) -> Tensor:
        """(vocabulary,) log-probabilities of the first word, from the last layer's output."""
        parts = self.vlm.parts
        return log_shares(parts.lm_head(parts.decoder.norm(states[:, -1:]))[0, 0])


@dataclass(frozen=True)
class _Notes(PruningMethod):
    """Prunes nothing; copies each layer's input, keys, values and rotary tables."""

    name: ClassVar[str] = "none"

    start: int
    found: list = field(default_factory=list)

    @property
    def settings(self):
        return {}

    def encode(self, view):
        self._note_input(view)

    def select(self, view):
        first = int((view.tokens < self.start).sum())
        keys, values = (x[:, :, :first].clone() for x in (view.keys, view.values))
        turns = tuple(table[:, first:].clone() for table in view.turns)
        self.found[-1] += [keys, values, turns, bool(len(view.visual_rows))]
        if view.layer + 1 < view.num_layers:
            self._note_input(view)

    def _note_input(self, view):
        first = int((view.tokens < self.start).sum())
        self.found.append([view.hidden[:, first:].clone()])


def _mask(layout: TokenLayout, start: int, masked: bool, dtype, device) -> Tensor:
    """(1, 1, rows from start, length): 0 where a row sees a key, else minus infinity."""
    rows, keys = torch.arange(start, layout.length), torch.arange(layout.length)
    seen = keys[None] <= rows[:, None]
    if masked:
        visual = torch.zeros(layout.length, dtype=torch.bool)
        visual[list(layout.visual)] = True
        seen &= visual[start:, None] | ~visual[None]
    mask = torch.zeros(seen.shape, dtype=dtype).masked_fill(~seen, float("-inf"))
    return mask[None, None].to(device)
