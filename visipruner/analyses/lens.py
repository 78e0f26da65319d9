"""Analysis 4: the words that the last prompt token would say after every layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from visipruner.analyses.base import Figure, Grid, Series
from visipruner.analyses.observed import Observed, Result, top_words, word_of
from visipruner.observing import Observer
from visipruner.settings import INT, setting


@dataclass(frozen=True)
class LayerWords(Result):
    """The likeliest words of the last token after each layer."""

    words: tuple  # (layers, k) the likeliest first
    shares: tuple  # (layers, k) their probabilities
    said: str  # the likeliest word after the last layer: the model's own first word
    said_shares: tuple  # (layers,) its probability after each layer
    said_ranks: tuple  # (layers,) its rank after each layer, from 1


@dataclass(frozen=True)
class LogitLens(Observed):
    """lm_head(norm(h)) of the last token's state h after each layer; the norm is applied once."""

    name: ClassVar[str] = "lens"
    title: ClassVar[str] = "Logit lens"
    question: ClassVar[str] = "After which layer does the model know its first word?"
    source: ClassVar[str] = "VisiPruner, section 3: logit lens of the last prompt token"

    words: int = setting(5, "Words per layer", INT, low=1, high=50)

    def observer(self, vlm, prompt):
        return _Last()

    def conclude(self, vlm, prompt, observer, trace) -> LayerWords:
        said = int(observer.logits[-1].argmax())
        shares, ranks, found = [], [], []
        for logits in observer.logits:
            words, top = top_words(vlm, logits[None], self.words)
            found.append((words[0], top[0]))
            shares.append(logits.softmax(-1)[said].item())
            ranks.append(int((logits > logits[said]).sum()) + 1)
        words, tops = zip(*found, strict=True)
        return LayerWords(words, tops, word_of(vlm, said), tuple(shares), tuple(ranks))

    def figures(self, result: LayerWords) -> list[Figure]:
        layers, many = range(len(result.words)), len(result.words[0])
        told = [
            [f"{word} {share:.0%}" for word, share in zip(*row, strict=True)]
            for row in zip(result.words, result.shares, strict=True)
        ]
        grid = Grid(
            [f"layer {layer}" for layer in layers],
            [f"word {rank + 1}" for rank in range(many)],
            result.shares,
            (0.0, 1.0),
            told,
        )
        words = _words(result)
        line = Series(f"“{result.said}”", layers, result.said_shares)
        return [
            Figure("The likeliest words after each layer", words, grid=grid),
            Figure(
                f"How sure each layer is of “{result.said}”", words, "layer", "probability", (line,)
            ),
        ]


class _Last(Observer):
    """Keeps the logits of the last row after each layer, (vocabulary,) float32."""

    def __init__(self):
        self.logits = []

    def observe(self, view):
        self.logits.append(view.logits(view.hidden[:, -1:])[0, 0].float().cpu())


def _words(result: LayerWords) -> str:
    first = len(result.said_ranks) - 1
    while first and result.said_ranks[first - 1] == 1:
        first -= 1
    return (
        f"The model's first word is “{result.said}”, {result.said_shares[-1]:.0%}. It is the "
        f"likeliest word of the last token from layer {first} on."
    )
