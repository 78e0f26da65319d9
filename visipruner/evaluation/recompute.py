"""A few points of the curve measured again, here and now: tallies that grow with each answer."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from visipruner.evaluation.evaluate import UNPRUNED
from visipruner.evaluation.intervals import paired_difference, wilson
from visipruner.evaluation.interview import Asked, in_turn, share_cut
from visipruner.inputs import check_number
from visipruner.world.questions import SKILLS

SPLIT = "heldout"
MOST_PER_SKILL = 10  # a server has other visitors
# Series that the page shows first: the best of each kind, and random choice.
FEW = (
    "visipruner", "visipruner, by the question", "fastv", "sparsevlm_plus", "random",
    "divprune, places kept", "divprune+visipruner, places kept", "tiny-aligned: none",
    "tiny-aligned: visipruner", "tiny-aligned: divprune, places kept",
)  # fmt: skip


@dataclass(frozen=True)
class Tally:
    """One column so far.

    Args:
        right, low, high: the mean score with its 95% interval; None before the first answer.
        flops_cut: of the executed prefill FLOPs, against the same questions unpruned.
        difference: paired with the unpruned answers: mean and 95% interval; None for fewer than
            two questions.
    """

    questions: int
    right: float | None = None
    low: float | None = None
    high: float | None = None
    flops_cut: float | None = None
    difference: tuple[float, float, float] | None = None


@dataclass
class Standing:
    """All answers so far.

    Args:
        columns: the names, `UNPRUNED` first.
        total: questions to ask each column.
        rows: as `interview` returns them.
    """

    columns: tuple[str, ...]
    total: int
    rows: list[dict] = field(default_factory=list)

    @property
    def over(self) -> bool:
        return len(self.rows) == self.total * len(self.columns)

    def tally(self, column: str) -> Tally:
        """The standing of one column."""
        mine = [row for row in self.rows if row["column"] == column]
        if not mine:
            return Tally(0)
        # The unpruned model answers each question first, so each answer has its partner.
        partner = {_place(row): row for row in self.rows if row["column"] == UNPRUNED}
        full = [partner[_place(row)] for row in mine]
        scores = [row["score"] for row in mine]
        low, high = wilson(sum(scores), len(scores))
        difference = paired_difference([row["score"] for row in full], scores)
        return Tally(
            len(scores), sum(scores) / len(scores), low, high, share_cut(mine, full),
            difference if math.isfinite(difference[1]) else None,
        )  # fmt: skip


def _place(row: dict) -> tuple:
    return row["skill"], row["number"]


def asking(count) -> list[Asked]:
    """`count` held-out questions, the same number of each skill.

    Raises:
        Refused: not a whole number from 1 per skill to `MOST_PER_SKILL` per skill.
    """
    most = MOST_PER_SKILL * len(SKILLS)
    number = check_number("The number of questions", count, 1, most, integer=True)
    return list(in_turn(SPLIT, math.ceil(number / len(SKILLS))))


def growing(standing: Standing, answers: Iterator[tuple[str, dict]]) -> Iterator[Standing]:
    """Add the answers one by one; closing this generator closes theirs."""
    try:
        yield standing
        for _, row in answers:
            standing.rows.append(row)
            yield standing
    finally:
        answers.close()


def columns_of(names: Sequence[str]) -> tuple[str, ...]:
    """The unpruned model first: every other answer is paired with its own."""
    return (UNPRUNED, *names)
