"""How far a long command is, and the time that is left, on standard error."""

from __future__ import annotations

import contextlib
import sys
import time

OFTEN, SELDOM = 0.5, 30  # seconds between two lines: on a terminal, and in a log


class Progress:
    """Told of every finished question.

    Args:
        total: all questions.
        what: of what they are, such as "questions".
    """

    def __init__(self, total: int, what: str = "questions"):
        self.total, self.what, self.done = total, what, 0
        self._asked = 0  # those that took the model's time
        self._began = self._last = time.monotonic()
        self._spent = 0.0  # seconds on those
        self._told = -float("inf")

    def step(self, asked: bool = True):
        """One more is done.

        Args:
            asked: whether the model was asked; what was in a store costs nothing.
        """
        now = time.monotonic()
        self.done += 1
        if asked:
            self._asked += 1
            self._spent += now - self._last
        self._last = now
        on_terminal = sys.stderr.isatty()
        if self.done < self.total and now - self._told < (OFTEN if on_terminal else SELDOM):
            return
        self._told = now
        end = "\r" if on_terminal and self.done < self.total else "\n"
        # Blanks cover what a longer line left on a terminal.
        with contextlib.suppress(OSError):  # a closed terminal does not stop the work
            sys.stderr.write(f"{self.line():<60}{end}" if on_terminal else f"{self.line()}{end}")
            sys.stderr.flush()

    def line(self) -> str:
        """Such as: 40 of 1,000 questions, about 12 min left."""
        said = f"{self.done:,} of {self.total:,} {self.what}"
        left = self.total - self.done
        if left <= 0 or not self._asked:
            return said
        return f"{said}, about {in_words(left * self._spent / self._asked)} left"


def in_words(seconds: float) -> str:
    """90 -> "2 min"; rough, because it is an estimate."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
