"""The file of questions that a server was started with: `app.py --questions FILE`."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from visipruner.evaluation import jsonl
from visipruner.evaluation.jsonl import Bad, Line

MOST_TOLD = 10  # bad lines that are named at the start; more are counted


@dataclass(frozen=True)
class Own:
    """A file that was read once; its lines are read again when a visitor searches it."""

    path: Path
    questions: int

    def lines(self, after: int) -> Iterator[Line]:
        """The questions after a line, then those from the beginning up to it."""
        later = (line for line in self._read() if line.number > after)
        earlier = itertools.takewhile(lambda line: line.number <= after, self._read())
        return itertools.chain(later, earlier)

    def _read(self) -> Iterator[Line]:
        return jsonl.read(self.path, lambda bad: None)


def open_own(path: Path) -> Own:
    """Read the file; bad lines are named in the server's log and left out.

    Raises:
        Refused: it has no question that can be asked.
    """
    bad = 0

    def tell(line: Bad):
        nonlocal bad
        bad += 1
        if bad <= MOST_TOLD:
            sys.stderr.write(f"left out: {line.of(path)}\n")

    found = jsonl.survey(path, tell)
    if bad > MOST_TOLD:
        sys.stderr.write(f"left out: {bad - MOST_TOLD:,} more lines\n")
    return Own(path, found.questions)
