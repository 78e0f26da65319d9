"""Whole answers under every mask of a range of layers, all in one run.

No mask changes the rows before the first text token after the picture (see rerun.py), so all masked
runs share them. The other rows of every run lie behind them one after the other, as branches of one
sequence: a row sees the shared rows and those of its own branch, and has the position that it would
have in a run of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from visipruner.analyses.rerun import Rerun, check_rerun
from visipruner.attention import Range
from visipruner.errors import Refused
from visipruner.layout import TokenLayout
from visipruner.stock import DynamicCache, run_layer


@torch.inference_mode()
def masked_answers(vlm, prompt, features, ranges: Sequence[Range], most: int) -> list[Tensor]:
    """The greedy answer under every mask, also masked while it is written; as `Blind` gives it.

    The caller holds `vlm.lock`.

    Args:
        prompt: from `vlm.prepare`. features: from `vlm.encode`.
        ranges: (first, last) masked layer, both included; last below first masks nothing.
        most: tokens of an answer.

    Returns:
        Per range the tokens of its answer, (at most `most`,), without the token that ends it.

    Raises:
        Refused: the model's positions are not plain numbers, or see `check_rerun`.
    """
    check_rerun(vlm, prompt)
    if not vlm.family.renumbers:
        raise Refused(f"{vlm.family.title} models cannot answer under many masks at once.")
    run = _Branches(Rerun(vlm, prompt, features), prompt.layout, ranges)
    ends = vlm.model.generation_config.eos_token_id
    ends = set(ends if isinstance(ends, list) else [ends])
    answers: list[list[int]] = [[] for _ in ranges]
    said = dict(enumerate(run.first_words()))  # branch: its next word
    for number in range(most):
        said = {branch: word for branch, word in said.items() if word not in ends}
        for branch, word in said.items():
            answers[branch].append(word)
        if not said or number + 1 == most:
            break
        said = run.next_words(said)
    return [torch.tensor(answer, dtype=torch.long) for answer in answers]


class _Branches:
    """The state of all branches: what every key is, and the keys and values of every layer."""

    def __init__(self, usual: Rerun, layout: TokenLayout, ranges: Sequence[Range]):
        self.usual, self.vlm, self.count = usual, usual.vlm, len(ranges)
        self.cache, self.device = DynamicCache(), usual.states[0].device
        for index, pair in enumerate(usual.before):
            self.cache.update(*pair, index)
        layers = torch.arange(len(usual.layers))
        firsts, lasts = torch.tensor(ranges).T[:, :, None]
        self.masked = (firsts <= layers) & (layers <= lasts)  # (branches, layers)
        # Of each key: its branch, -1 for all; its position; whether it is visual.
        self.owner = torch.full((usual.start,), -1)
        self.place = torch.arange(usual.start)
        self.visual = torch.zeros(layout.length, dtype=torch.bool)
        self.visual[list(layout.visual)] = True
        self.tail = self.visual[usual.start :]
        self.visual = self.visual[: usual.start]

    def first_words(self) -> list[int]:
        """The first word of every branch."""
        rows = self.usual.states[0].shape[1]
        states = self.usual.states[0].repeat(1, self.count, 1)
        turns = tuple(table.repeat(1, self.count, 1) for table in self.usual.turns)
        owner = torch.arange(self.count).repeat_interleave(rows)
        place = torch.arange(self.usual.start, self.usual.start + rows).repeat(self.count)
        states = self._through(states, turns, owner, place, self.tail.repeat(self.count))
        return self._words(states[:, rows - 1 :: rows])

    def next_words(self, said: dict[int, int]) -> dict[int, int]:
        """{branch: next word} of the branches that go on, from {branch: its last word}."""
        ids = torch.tensor([list(said.values())], device=self.device)
        states = self.vlm.model.get_input_embeddings()(ids)
        place = torch.full((len(said),), int(self.place.max()) + 1)
        turns = self.vlm.parts.decoder.rotary_emb(states, place[None].to(self.device))
        owner, text = torch.tensor(list(said)), torch.zeros(len(said), dtype=torch.bool)
        words = self._words(self._through(states, turns, owner, place, text))
        return dict(zip(said, words, strict=True))

    def _through(self, states, turns, owner: Tensor, place: Tensor, visual: Tensor) -> Tensor:
        """Further rows through all layers; (1, rows, width)."""
        self.owner, self.place = torch.cat([self.owner, owner]), torch.cat([self.place, place])
        self.visual = torch.cat([self.visual, visual])
        own = (self.owner[None] == owner[:, None]) | (self.owner[None] < 0)
        seen = own & (self.place[None] <= place[:, None])
        picture = ~visual[:, None] & self.visual[None]  # what a mask hides
        for index, layer in enumerate(self.usual.layers):
            hidden = picture & self.masked[owner, index][:, None]
            mask = torch.zeros(seen.shape, dtype=states.dtype)
            mask.masked_fill_(~seen | hidden, float("-inf"))
            if not self.usual.sees[index]:
                mask = mask[:, ~self.visual]
            mask = mask[None, None].to(self.device)
            states = run_layer(layer, states, turns, self.cache, mask=mask)
        return states

    def _words(self, states: Tensor) -> list[int]:
        parts = self.vlm.parts
        return parts.lm_head(parts.decoder.norm(states))[0].argmax(-1).tolist()
