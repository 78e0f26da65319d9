"""Analysis 3: attention sinks, tokens with much attention and small values."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import ClassVar

from visipruner.analyses.base import Figure, Series
from visipruner.analyses.observed import Observed, Result, check_number_of, numbers, word_at
from visipruner.observing import Observer
from visipruner.settings import INT, setting

LEAST = 1e-6  # of attention, so that a logarithm exists


@dataclass(frozen=True)
class SinkTable(Result):
    """Attention and size of values, per layer and token."""

    words: tuple  # (tokens of the prompt,)
    visual: tuple  # (tokens,) is it a visual token?
    layers: tuple  # (tables,) which layers the tables are of
    tokens: tuple  # (tables, tokens there) indices into the prompt; a method's own are left out
    attention: tuple  # (tables, tokens there) of the last prompt token, the mean over heads
    l1: tuple  # (tables, tokens there) L1 norm of the values of all key-value heads together


@dataclass(frozen=True)
class Sinks(Observed):
    """L1 norm of each token's values against the attention that it gets."""

    name: ClassVar[str] = "sinks"
    title: ClassVar[str] = "Attention sinks"
    question: ClassVar[str] = "Which tokens get attention, but have little to say?"
    source: ClassVar[str] = "VisiPruner, section 3: visual tokens as passive attention sinks"

    layer: int | None = setting(None, "Layer; none is every layer", INT, high=10_000, optional=True)

    def check(self, vlm, prompt):
        if self.layer is not None:
            layers = vlm.model.config.get_text_config().num_hidden_layers
            check_number_of("layer", self.layer, layers, "layers")

    def observer(self, vlm, prompt):
        return _Sizes(self.layer)

    def conclude(self, vlm, prompt, observer, trace) -> SinkTable:
        length, visual = prompt.layout.length, frozenset(prompt.layout.visual)
        words = tuple(word_at(vlm, prompt, token) for token in range(length))
        kinds = tuple(token in visual for token in range(length))
        return SinkTable(words, kinds, *zip(*observer.found, strict=True))

    def figures(self, result: SinkTable) -> list[Figure]:
        return [_figure(result, number) for number in range(len(result.layers))]


class _Sizes(Observer):
    """Keeps (layer, tokens, attention, L1 norms) of the layers asked for."""

    def __init__(self, layer: int | None):
        self.layer, self.found = layer, []

    def observe(self, view):
        if self.layer not in (None, view.layer):
            return
        known = (view.tokens < view.layout.length).nonzero().flatten()
        attention = view.attention_row().mean(0).cpu()[known]
        l1 = view.values[0].float().abs().sum((0, 2)).cpu()[known]
        self.found.append((view.layer, *map(numbers, (view.tokens[known], attention, l1))))


def _figure(result: SinkTable, number: int) -> Figure:
    layer, tokens = result.layers[number], result.tokens[number]
    first = next((token for token in tokens if not result.visual[token]), None)
    kinds = {"visual tokens": [], "text tokens": [], "first text token": []}
    for place, token in enumerate(tokens):
        visual = result.visual[token]
        kind = "visual tokens" if visual else "text tokens"
        kinds["first text token" if token == first else kind].append(place)
    series = []
    for name, places in kinds.items():
        x = [math.log10(max(result.attention[number][place], LEAST)) for place in places]
        y = [result.l1[number][place] for place in places]
        words = [f"token {tokens[place]}: {result.words[tokens[place]]}" for place in places]
        if name == "first text token" and first is not None:
            name = f"first text token “{result.words[first]}”"
        series.append(Series(name, x, y, words, "dots"))
    return Figure(
        f"Attention against size of values in layer {layer}",
        _words(result, number, first),
        "log10 of the last prompt token's attention",
        "L1 norm of the values",
        series,
        layer=layer,
    )


def _words(result: SinkTable, number: int, first: int | None) -> str:
    tokens, attention, l1 = (part[number] for part in (result.tokens, result.attention, result.l1))
    median = statistics.median(l1)
    place = max(range(len(tokens)), key=attention.__getitem__)
    top = f"{_called(result, tokens[place])} gets most attention, {attention[place]:.0%}"
    parts = [
        f"Layer {result.layers[number]}: {top}; its values are {l1[place] / median:.2f} times "
        "as large as the median token's."
    ]
    visual = sum(a for token, a in zip(tokens, attention, strict=True) if result.visual[token])
    parts.append(f"All visual tokens together get {visual:.0%}.")
    if first is not None and tokens[place] != first:
        place = tokens.index(first)
        parts.append(
            f"The first text token “{result.words[first]}” gets {attention[place]:.0%}; its values "
            f"are {l1[place] / median:.2f} times the median."
        )
    parts.append("A sink has much attention and small values: at the right, near the bottom.")
    return " ".join(parts)


def _called(result: SinkTable, token: int) -> str:
    word = result.words[token]
    return f"Visual token {word}" if result.visual[token] else f"Text token {token} (“{word}”)"
