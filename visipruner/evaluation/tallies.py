"""What many answers say together, per method and tag, while they come; none is kept."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from visipruner.evaluation.intervals import Differences, wilson
from visipruner.evaluation.matching import same

EVERY = None  # the tag of the line about all questions


@dataclass
class Tally:
    """One method's answers to the questions of one tag, each beside the baseline's.

    Args:
        right: of the labelled ones.
        alike: answers that say the same as the baseline's.
        flops, full_flops: executed in prefill, by the method and by the baseline.
        tokens: the sum of the mean visual tokens per layer.
    """

    questions: int = 0
    labelled: int = 0
    right: float = 0
    alike: int = 0
    flops: int = 0
    full_flops: int = 0
    tokens: float = 0
    differences: Differences = field(default_factory=Differences)

    def add(self, row: dict, full: dict):
        self.questions += 1
        self.alike += same(row["answer"], full["answer"])
        self.flops += row["flops"]
        self.full_flops += full["flops"]
        self.tokens += statistics.fmean(row["tokens"])
        if row["score"] is not None:
            self.labelled += 1
            self.right += row["score"]
            self.differences.add(full["score"], row["score"])

    def line(self) -> dict:
        """The figures; None: not known. Shares and differences are from 0 to 1."""
        found = {"questions": self.questions, "labelled": self.labelled}
        found |= _share("right", self.right, self.labelled)
        paired = self.differences.interval if self.labelled else (None, None, None)
        paired = [None if one is None or math.isinf(one) else one for one in paired]
        found |= zip(("difference", "difference_low", "difference_high"), paired, strict=True)
        found |= _share("same", self.alike, self.questions)
        found["flops_cut"] = 1 - self.flops / self.full_flops if self.full_flops else None
        found["tokens"] = self.tokens / self.questions if self.questions else None
        return found


def _share(name: str, part: float, count: int) -> dict:
    low, high = wilson(part, count) if count else (None, None)
    return {name: part / count if count else None, f"{name}_low": low, f"{name}_high": high}


class Table:
    """A tally for every method and tag, and one for all questions."""

    def __init__(self, columns: Iterable[str], tags: Iterable[str]):
        self.columns = tuple(columns)  # the baseline first
        self.tallies = {(column, tag): Tally() for tag in (EVERY, *tags) for column in self.columns}

    def add(self, rows: Mapping[str, dict], tags: Iterable[str]):
        """Every method's answer to one question."""
        full = rows[self.columns[0]]
        for column, row in rows.items():
            for tag in (EVERY, *tags):
                # A tag that is not known: the file was changed while it was read.
                self.tallies.setdefault((column, tag), Tally()).add(row, full)

    def lines(self) -> list[dict]:
        """A line per method and tag, those about all questions first."""
        return [
            {"method": column, "tag": tag, **tally.line()}
            for (column, tag), tally in self.tallies.items()
            if tally.questions
        ]
