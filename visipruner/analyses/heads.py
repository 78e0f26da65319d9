"""Analysis 5: what each head can write, the last token's value through its part of o_proj."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from visipruner.analyses.base import Figure, Grid
from visipruner.analyses.observed import Observed, Result, top_words
from visipruner.observing import Observer
from visipruner.settings import INT, setting


@dataclass(frozen=True)
class HeadWords(Result):
    """The likeliest words of each head's projection."""

    words: tuple  # (layers, heads, k) the likeliest first
    shares: tuple  # (layers, heads, k) their probabilities


@dataclass(frozen=True)
class ValueOutput(Observed):
    """Per head: the last prompt token's value through the head's slice of o_proj, then the lens."""

    name: ClassVar[str] = "heads"
    title: ClassVar[str] = "Words of the heads"
    question: ClassVar[str] = "Which words does each head write for the last prompt token?"
    source: ClassVar[str] = "VisiPruner, section 3: value-output projection"

    words: int = setting(3, "Words per head", INT, low=1, high=50)

    def observer(self, vlm, prompt):
        return _Heads(vlm, self.words)

    def conclude(self, vlm, prompt, observer, trace) -> HeadWords:
        return HeadWords(*zip(*observer.found, strict=True))

    def figures(self, result: HeadWords) -> list[Figure]:
        layers, heads = len(result.words), len(result.words[0])
        told = [[_list(result, layer, head) for head in range(heads)] for layer in range(layers)]
        shares = [[top[0] for top in row] for row in result.shares]
        best, layer, head = max(
            (shares[layer][head], layer, head) for layer in range(layers) for head in range(heads)
        )
        words = (
            "The likeliest word that each head writes for the last prompt token, from its value "
            f"there alone. The surest is “{result.words[layer][head][0]}” of head {head} in layer "
            f"{layer}, {best:.0%}."
        )
        grid = Grid(
            [f"layer {layer}" for layer in range(layers)],
            [f"head {head}" for head in range(heads)],
            shares,
            (0.0, 1.0),
            told,
        )
        return [Figure(self.title, words, "", "colours: probability of the word", grid=grid)]


def head_outputs(view) -> torch.Tensor:
    """(heads, width): the last row's value through each head's slice of o_proj, without its bias.

    Their sum is what o_proj makes of the value as if every head attended to the last row alone.
    """
    config = view.parts.config
    value = view.values[0, :, -1]  # (kv heads, head width)
    heads, (kv_heads, width) = config.num_attention_heads, value.shape
    value = value.repeat_interleave(heads // kv_heads, dim=0)  # (heads, head width)
    alone = torch.diag_embed(value.mT).permute(1, 2, 0)  # (heads, heads, head width)
    return view.through_output(alone.reshape(heads, heads * width))


class _Heads(Observer):
    """Keeps (words, probabilities) of each layer's heads."""

    def __init__(self, vlm, words: int):
        self.vlm, self.words, self.found = vlm, words, []

    def observe(self, view):
        logits = view.logits(head_outputs(view)[None])[0]
        self.found.append(top_words(self.vlm, logits, self.words))


def _list(result: HeadWords, layer: int, head: int) -> str:
    pairs = zip(result.words[layer][head], result.shares[layer][head], strict=True)
    return "\n".join(f"{word} {share:.0%}" for word, share in pairs)
