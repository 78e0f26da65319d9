"""Analysis 7: change one thing in a run, and see what the answer makes of it.

Here is what all interventions share; recipes.py holds the interventions.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from visipruner.analyses.asking import ask, divergence
from visipruner.analyses.base import Analysis, Figure, PatchMap, Series, Step
from visipruner.analyses.observed import Result, check_visual, word_of
from visipruner.choice import Side
from visipruner.inputs import check_number
from visipruner.methods.base import PruningMethod
from visipruner.running.stream import stream
from visipruner.settings import INT, check_settings, setting
from visipruner.trace import PruningTrace

UNTOUCHED = "untouched"
READ = "1: read by the text, 0: not read, empty: dropped"
# Per layer and visual token: 1, 0, or None if it is dropped.
Reading = tuple[tuple[float | None, ...], ...]


@dataclass(frozen=True)
class Intervened(Result):
    """An untouched run and one or more changed ones; the untouched one comes first.

    Args:
        names: of the runs.
        answers: greedy, up to the wished length.
        words: the greedy first word of each.
        kl: in nats: KL divergence of each first word's distribution from the untouched one's.
        read: per changed run, layer and visual token: 1, its key is read by text tokens; 0, it is
            not; None: it was dropped before.
        groups: names of groups of tokens whose attention was measured; empty: it was not.
        attention: per run, group and layer: the group's share of the last prompt token's attention;
            None: the model computes no visual token in this layer.
        note: what one must know to read the numbers; may be empty.
    """

    names: tuple[str, ...]
    answers: tuple[str, ...]
    words: tuple[str, ...]
    kl: tuple[float, ...]
    read: tuple[Reading, ...]
    groups: tuple[str, ...] = ()
    attention: tuple[tuple[tuple[float | None, ...], ...], ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Intervention(Analysis):
    """The base of the recipes. A recipe says which runs to compare, and what they read."""

    others: ClassVar[int] = 1  # runs beside the untouched one
    note: ClassVar[str] = ""
    source: ClassVar[str] = "VisiPruner, sections 3 and 4: interventions on visual tokens"

    tokens: int = setting(32, "Longest answer, in tokens", INT, low=1, high=1024)

    def __post_init__(self):
        check_settings(self)

    def check(self, vlm, prompt):
        check_visual(prompt, self.title)

    def untouched(self) -> PruningMethod:
        """The method of the untouched run, new for each analysis: it may record."""
        return PruningMethod()

    def sides(self, untouched: PruningMethod, layout) -> dict[str, Side]:
        """The changed runs, by name, each with its method; as many as `others`.

        Args:
            untouched: from `untouched`, after its run.
        """
        raise NotImplementedError

    def reading(self, side: Side, trace: PruningTrace) -> Reading:
        """What text tokens read in a changed run; here: every visual token that is present."""
        return present(trace)

    def attention(self, sides: Sequence[Side], layout) -> dict[str, tuple]:
        """`groups` and `attention` of the result; empty: this recipe measures none.

        Args:
            sides: of all runs, the untouched one's first, after their runs.
        """
        return {}

    def run(self, vlm, prompt, features) -> Iterator[Step | Intervened]:
        self.check(vlm, prompt)
        total, found = 1 + self.others, []

        def work(emit):
            found.append(self._compare(vlm, prompt, features, emit, total))

        yield from stream(work, vlm.lock, Step(0, total))
        yield found[0]

    def _compare(self, vlm, prompt, features, emit, total: int) -> Intervened:
        said, untouched = {}, self.untouched()

        def answer(name: str, side: Side):
            done = len(said)
            beat = lambda: emit(Step(done, total))  # noqa: E731 - it stops a run that was left
            said[name] = side, ask(vlm, side, prompt, features, self.tokens, beat)
            emit(Step(len(said), total))

        answer(UNTOUCHED, untouched)
        for name, side in self.sides(untouched, prompt.layout).items():
            answer(name, side)
        sides, found = zip(*said.values(), strict=True)
        traces = [one.trace for one in found]
        return Intervened(
            tuple(said),
            tuple(one.text for one in found),
            tuple(word_of(vlm, int(one.first.argmax())) for one in found),
            tuple(divergence(found[0].first, one.first) for one in found),
            tuple(self.reading(*one) for one in zip(sides[1:], traces[1:], strict=True)),
            **self.attention(sides, prompt.layout),
            note=self.note,
        )

    def figures(self, result: Intervened) -> list[Figure | PatchMap]:
        found: list[Figure | PatchMap] = []
        for number, (name, read) in enumerate(zip(result.names[1:], result.read, strict=True), 1):
            words = in_words(result, number)
            found.append(PatchMap(f"{self.title}: {name}", READ, read, (0.0, 1.0), words))
        for name, shares in zip(result.names, result.attention, strict=False):
            lines = dict(zip(result.groups, shares, strict=True))
            found.append(
                Figure(
                    f"Where the last prompt token looks: {name}",
                    _shares_in_words(name, lines),
                    "layer",
                    "share of attention",
                    [Series(group, range(len(y)), y) for group, y in lines.items()],
                )
            )
        return found


def present(trace: PruningTrace) -> Reading:
    """1 for every visual token that a layer computes, None for the others."""
    found = []
    for record in trace.layers:
        there = set(trace.patches_at(record.layer))
        found.append(tuple(1.0 if n in there else None for n in range(trace.num_visual)))
    return tuple(found)


def unread(read: Reading, layers: range, patches: Collection[int] | None = None) -> Reading:
    """The same, but in some layers these patches are not read. None: no patch is."""

    def value(layer, patch, was):
        gone = layer in layers and (patches is None or patch in patches)
        return 0.0 if gone and was is not None else was

    return tuple(
        tuple(value(layer, patch, was) for patch, was in enumerate(row))
        for layer, row in enumerate(read)
    )


def in_words(result: Intervened, number: int) -> str:
    """What one changed run did to the answer."""
    name, answer = result.names[number], result.answers[number]
    if answer == result.answers[0]:
        said = f"{name}: the answer stays “{answer}”"
    else:
        said = f"{name}: “{answer}” instead of “{result.answers[0]}”"
    return f"{said}; KL of the first word {result.kl[number]:.3g}. {result.note}".strip()


def _shares_in_words(name: str, groups: Mapping[str, Sequence[float]]) -> str:
    known = {group: [share for share in y if share is not None] for group, y in groups.items()}
    means = [f"{group} {sum(y) / len(y):.0%}" for group, y in known.items()]
    return f"{name}: mean over layers, {', '.join(means)}."


def check_layer(name: str, layer: int, vlm, last: bool = True):
    """Check a layer against a model.

    Args:
        last: may it be the last layer?

    Raises:
        Refused: the model has no such layer.
    """
    check_number(name, layer, 0, len(vlm.parts.layers) - (1 if last else 2), integer=True)
