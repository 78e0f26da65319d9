"""Analysis 4b: words on patches, the logit lens of every visual token."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import ClassVar

from visipruner.analyses.base import PatchMap
from visipruner.analyses.observed import (
    Observed,
    Result,
    check_number_of,
    check_visual,
    per_patch,
    top_words,
)
from visipruner.flops import ModelShape
from visipruner.observing import Observer
from visipruner.settings import INTS, setting

# Logits in memory at a time: 64 MB in float32. For fewer, lm_head's weights are read too often.
AT_A_TIME = 2**24
# A logit's multiplications take longer than a layer's, and its softmax and its rank come on top:
# 1.15 to 1.3 times as long in all (bench/NOTES.md, "Words on patches").
DEARER = 1.3
CAUTION = (
    "Read it with care: a plain lens reads only about a quarter of the visual tokens "
    "(LatentLens, ICML 2026)."
)


@dataclass(frozen=True)
class PatchWords(Result):
    """The likeliest word of each visual token."""

    layers: tuple  # (layers read,)
    words: tuple  # (layers, visual tokens); "": not there, or the layer was not read
    shares: tuple  # (layers, visual tokens) their probabilities; None: as above


@dataclass(frozen=True)
class WordsOnPatches(Observed):
    """lm_head(norm(h)) of the state h of every visual token.

    A model with many words has a large lm_head. So without `layers`, only as many layers are read,
    at even distances, as cost about one prefill.
    """

    name: ClassVar[str] = "words"
    title: ClassVar[str] = "Words on patches"
    question: ClassVar[str] = "Which word is each visual token nearest to?"
    source: ClassVar[str] = "VisiPruner, section 3: logit lens, here of the visual tokens"

    layers: tuple[int, ...] = setting((), "Layers to read; none: chosen by cost", INTS, high=10_000)

    def check(self, vlm, prompt):
        check_visual(prompt, self.title)
        count = vlm.model.config.get_text_config().num_hidden_layers
        for layer in self.layers:
            check_number_of("each of layers", layer, count, "layers")

    def observer(self, vlm, prompt):
        shape = ModelShape.of(vlm.model.config)
        return _Patches(vlm, frozenset(self.layers or affordable(shape, prompt.layout)))

    def conclude(self, vlm, prompt, observer, trace) -> PatchWords:
        words, shares = zip(*observer.found, strict=True)
        return PatchWords(tuple(sorted(observer.layers)), words, shares)

    def figures(self, result: PatchWords) -> list[PatchMap]:
        shares = [s for layer in result.layers for s in result.shares[layer] if s is not None]
        sure = f"{statistics.median(shares):.0%}" if shares else "nothing"
        words = (
            f"The likeliest word of each visual token; half of them have {sure} or more. {CAUTION}"
        )
        scale, unit = (0.0, 1.0), "probability of the word"
        return [PatchMap(self.title, unit, result.shares, scale, words, result.words)]


def affordable(shape: ModelShape, layout) -> list[int]:
    """Layers at even distances, the last among them, whose lens costs at most one prefill."""
    prefill = layout.length * shape.layers * shape.token_macs()
    lens = DEARER * layout.num_visual * shape.width * shape.vocabulary
    count = max(1, min(shape.layers, int(prefill / max(1, lens))))
    return sorted({shape.layers - 1 - number * shape.layers // count for number in range(count)})


class _Patches(Observer):
    """Keeps (word, probability) of each visual token of each layer."""

    def __init__(self, vlm, layers: frozenset[int]):
        self.vlm, self.layers, self.found = vlm, layers, []

    def observe(self, view):
        words, shares = [], []
        rows = view.visual_rows
        if view.layer not in self.layers:
            words, shares = [""] * len(rows), [None] * len(rows)
            rows = rows[:0]
        at_a_time = max(1, AT_A_TIME // self.vlm.model.config.get_text_config().vocab_size)
        for some in rows.split(at_a_time) if len(rows) else ():
            logits = view.logits(view.hidden[:, some.to(view.hidden.device)])[0]
            found, sure = top_words(self.vlm, logits, 1)
            words += [word for (word,) in found]
            shares += [share for (share,) in sure]
        self.found.append((per_patch(view, words, ""), per_patch(view, shares)))
