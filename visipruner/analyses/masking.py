"""Analysis 6: mask the picture in every range of layers, and see where the answer needs it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

from visipruner.analyses.asking import ask, divergence
from visipruner.analyses.base import Analysis, Figure, Series, Step
from visipruner.analyses.observed import Result, check_visual, word_of
from visipruner.analyses.ranges import (
    FLOOR,
    block_of,
    layers_in_words,
    ranges_of,
    stages_in_words,
    stages_of,
    triangle,
)
from visipruner.analyses.recorded import Recorded, recorded_figure, recorded_of
from visipruner.analyses.rerun import Rerun, check_rerun
from visipruner.choice import method_at
from visipruner.levels import PRESETS
from visipruner.running.stream import stream
from visipruner.settings import CHOICE, check_settings, setting


@dataclass(frozen=True)
class Masked(Result):
    """What every masked range of layers costs on one picture and question.

    Args:
        layers: of the model.
        block: layers that are masked together; 1: every range was run.
        ranges: (first, last) masked layer, both included.
        kl: per range, in nats: KL divergence of the first word's distribution from the unmasked
            one, over the whole vocabulary.
        changed: per range: is the greedy first word another one?
        words: per range: the greedy first word.
        word: the unmasked one.
        level: of VisiPruner, which ran beside; its filtering and exit layer, or None.
        recorded: how often this model is right under these masks, if that was measured.
    """

    layers: int
    block: int
    ranges: tuple[tuple[int, int], ...]
    kl: tuple[float, ...]
    changed: tuple[bool, ...]
    words: tuple[str, ...]
    word: str
    level: str
    filtering_layer: int | None
    exit_layer: int | None
    recorded: Recorded | None = None

    @property
    def cost(self) -> dict[tuple[int, int], float]:
        return dict(zip(self.ranges, self.kl, strict=True))

    @property
    def stages(self) -> dict[str, tuple[int, int]]:
        """The stages that the costs name; see `stages_of`."""
        return stages_of(self.cost)

    def to_json(self) -> dict:
        """As the base, and the stages."""
        stages = {name: list(one) for name, one in self.stages.items()}
        recorded = self.recorded and self.recorded.to_json()
        return super().to_json() | {"stages": stages, "recorded": recorded}

    @classmethod
    def from_json(cls, data: dict) -> Masked:
        given = {k: value for k, value in data.items() if k not in ("stages", "recorded")}
        recorded = data.get("recorded")
        return replace(super().from_json(given), recorded=recorded and Recorded.from_json(recorded))


@dataclass(frozen=True)
class RangeMasking(Analysis):
    """No text token sees the picture in layers a to b, for all a <= b.

    Prefill only. The visual tokens themselves go on as usual (the masking of the paper's figure 3).
    """

    name: ClassVar[str] = "masking"
    title: ClassVar[str] = "Range masking"
    question: ClassVar[str] = "In which layers does the answer need the picture?"
    source: ClassVar[str] = "VisiPruner, figure 3: text-to-visual attention masked by layer range"

    level: str = setting(
        "balanced", "Level of VisiPruner", CHOICE, options={name: name for name in PRESETS}
    )

    def __post_init__(self):
        check_settings(self)

    def check(self, vlm, prompt):
        check_visual(prompt, self.title)
        check_rerun(vlm, prompt)

    def run(self, vlm, prompt, features) -> Iterator[Step | Masked]:
        self.check(vlm, prompt)
        layers, recorded, found = len(vlm.parts.layers), recorded_of(vlm), []
        total = 2 + len(ranges_of(layers, block_of(layers)))

        def work(emit):
            masked = self._mask(vlm, prompt, features, emit, total)
            found.append(replace(masked, recorded=recorded))

        yield from stream(work, vlm.lock, Step(0, total))
        yield found[0]

    def _mask(self, vlm, prompt, features, emit, total) -> Masked:
        """Two whole runs, unmasked and pruned; then every range."""
        usual = Rerun(vlm, prompt, features, lambda: emit(Step(0, total)))
        method = method_at(vlm, "visipruner", self.level, "paper", prompt.layout.num_visual)
        trace = ask(vlm, method, prompt, features, 1, lambda: emit(Step(1, total))).trace
        emit(Step(2, total))
        layers, first, rows = len(usual.layers), usual.said.first, []
        block = block_of(layers)
        for one, shares in masked_words(usual, block):
            word = int(shares.argmax())
            changed = word != int(first.argmax())
            rows.append((one, divergence(first, shares), changed, word_of(vlm, word)))
            emit(Step(2 + len(rows), total))
        word, acted = word_of(vlm, int(first.argmax())), (trace.filtering_layer, trace.exit_layer)
        return Masked(layers, block, *zip(*rows, strict=True), word, self.level, *acted)

    def figures(self, result: Masked) -> list[Figure]:
        recorded = [recorded_figure(result.recorded)] if result.recorded else []
        return [_triangle(result), *recorded, _curves(result)]


def masked_words(usual: Rerun, block: int = 1) -> Iterator[tuple[tuple[int, int], object]]:
    """((first, last), log-probabilities of the first word) of every masked range.

    Ranges with the same first layer share their masked layers: each run goes on from the one that
    masks a block less.
    """
    layers = len(usual.layers)
    states, begun = None, None
    for first, last in ranges_of(layers, block):
        if first != begun:
            begun, states, done = first, usual.states[first], first
        states = usual.through(states, (done, last + 1), masked=True)
        done = last + 1
        yield (first, last), usual.first_word(usual.through(states, (done, layers)))


# -- figures


def _triangle(result: Masked) -> Figure:
    words = {
        one: f"{layers_in_words(*one)} masked: KL {lost:.3g}, first word “{word}”"
        + (f" instead of “{result.word}”" if changed else ", unchanged")
        for one, lost, changed, word in zip(
            result.ranges, result.kl, result.changed, result.words, strict=True
        )
    }
    return Figure(
        "What masking layers changes: KL of the first word in nats, 0 is none",
        f"{_stages_in_words(result)} {_blocks_in_words(result)}".strip(),
        "last masked layer",
        "first masked layer",
        grid=triangle(result.cost, words, (0.0, max(FLOOR, *result.kl))),
    )


def _curves(result: Masked) -> Figure:
    end, cost = result.layers - 1, result.cost
    starts = [first for first, last in result.ranges if last == end]
    below = [0.0, *(cost[0, start - 1] for start in starts[1:]), cost[0, end]]
    onwards = [*(cost[start, end] for start in starts), 0.0]
    places = [*starts, result.layers]
    return Figure(
        "Blind below a layer, and blind from a layer on",
        "Blind below k masks layers 0 to k - 1; blind from k masks layer k and all later ones. "
        f"{_visipruner_in_words(result)}",
        "layer k",
        "KL of the first word, nats",
        (Series("blind below k", places, below), Series("blind from k", places, onwards)),
        marks=_marks(result),
    )


def _marks(result: Masked) -> dict[str, float]:
    found = {
        "filtering layer": result.filtering_layer,
        "exit layer": result.exit_layer,
    }
    if middle := result.stages.get("middle"):
        found |= {"middle begins": middle[0], "middle ends": middle[1] + 1}
    return {name: float(layer) for name, layer in found.items() if layer is not None}


def _stages_in_words(result: Masked) -> str:
    if not result.stages:
        whole = result.cost[0, result.layers - 1]
        return (
            "No stage is named: masking the picture in all layers hardly changes the first word "
            f"(KL {whole:.2g}). The first word of a sentence often does not need it: ask for one "
            "word."
        )
    return f"Stages on this picture: {stages_in_words(result.stages)}."


def _blocks_in_words(result: Masked) -> str:
    if result.block == 1:
        return ""
    return f"Layers are masked in blocks of {result.block}."


def _visipruner_in_words(result: Masked) -> str:
    if result.filtering_layer is None:
        return f"VisiPruner, {result.level}, found no filtering layer."
    left = result.exit_layer
    exits = "vision did not exit" if left is None else f"vision exited after layer {left}"
    return f"VisiPruner, {result.level}, filtered after layer {result.filtering_layer}; {exits}."
