"""What comes out of a run: answers with their times and counts, and the comparison of two."""

from __future__ import annotations

import difflib
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from visipruner.errors import Refused
from visipruner.flops import ExecutedFlops
from visipruner.inputs import check_number, set_whole
from visipruner.models import Prompt
from visipruner.trace import PruningTrace

LEAST_TEMPERATURE = 0.01  # scores divided by much less are infinite, and nothing can be drawn
LEAST_ROUNDS = 3  # a median of fewer says no more than one run
LEAST_STEPS = 3  # the same, of decoded tokens: after one word only the end of the answer follows
NOTICEABLE = 1.05  # a ratio of clocks nearer to 1 may be noise
CLOCKS = ("vision", "prefill", "first_token", "per_token", "total")  # of Times, in their order


@dataclass(frozen=True)
class Options:
    """How to answer. Temperature 0 is greedy decoding, else it is 0.01 at least.

    Raises:
        Refused: for a value out of its range.
    """

    max_new_tokens: int = 96
    temperature: float = 0.0
    seed: int = 0
    probe: bool = True  # also measure influence in every layer of the full model, untimed
    clock_rounds: int = 5  # silent repeats for a steadier clock, at most: 0, or LEAST_ROUNDS on

    def __post_init__(self):
        set_whole(self, "max_new_tokens", 1, 1024)
        # A float, for transformers takes no whole number.
        object.__setattr__(self, "temperature", check_number("temperature", self.temperature, 0, 5))
        if 0 < self.temperature < LEAST_TEMPERATURE:
            raise Refused(
                f"temperature must be 0, or a number from {LEAST_TEMPERATURE} to 5, not "
                f"{self.temperature}."
            )
        set_whole(self, "seed", 0, 2**31 - 1)
        set_whole(self, "clock_rounds", 0, 100)
        if 0 < self.clock_rounds < LEAST_ROUNDS:
            raise Refused(
                f"clock_rounds must be 0, or {LEAST_ROUNDS} at least, not {self.clock_rounds}."
            )


@dataclass(frozen=True)
class Times:
    """Milliseconds. First token and total include the vision tower's share.

    Where `rounds` is 0, all are of the one run that was shown. Else vision, prefill and first token
    are medians of so many silent runs after it, in turn with the other side's, whose first tokens
    are `first_tokens`; and the total is that first token with what followed it in the run that was
    shown. If `whole`, the silent runs were whole answers, and every clock is a median of theirs.
    """

    vision: float
    prefill: float
    first_token: float
    per_token: float | None  # median of the steps after the first; None: fewer than LEAST_STEPS
    total: float
    rounds: int = 0
    first_tokens: tuple[float, ...] = ()
    whole: bool = False

    @classmethod
    def median(cls, taken: Sequence[Times]) -> Times:
        """The medians of whole answers; `per_token` is None where no answer has one."""
        found = {}
        for name in CLOCKS:
            values = [value for times in taken if (value := getattr(times, name)) is not None]
            found[name] = statistics.median(values) if values else None
        firsts = tuple(times.first_token for times in taken)
        return cls(**found, rounds=len(taken), first_tokens=firsts, whole=True)

    def with_first(self, taken: Sequence[Times]) -> Times:
        """These times, but up to the first token the medians of silent runs."""
        median = Times.median(taken)
        total = median.first_token + self.total - self.first_token
        return replace(median, per_token=self.per_token, total=total, whole=False)


@dataclass(frozen=True)
class Counts:
    """FLOPs and bytes of one answer. The names say which way of counting it is."""

    executed: ExecutedFlops
    executed_per_layer: list[int]
    vision: int
    paper_macs: int
    attention_paper: float
    attention_executed: float
    kv_bytes: int
    peak_bytes: int | None  # measured above what was there before; None: not measured on a CPU


@dataclass(frozen=True)
class Answer:
    """What one method said, what it cost and how it came about."""

    text: str
    tokens: list[int]
    times: Times
    counts: Counts
    trace: PruningTrace

    def says_as(self, other: Answer) -> bool:
        """The same words, but for case and outer blanks."""
        return self.text.strip().casefold() == other.text.strip().casefold()

    def to_json(self) -> dict:
        return {
            "text": self.text,
            "tokens": self.tokens,
            "times": asdict(self.times),
            "counts": asdict(self.counts),
            "trace": self.trace.to_json(),
        }


@dataclass(frozen=True)
class Comparison:
    """Answers to one question, the baseline first."""

    prompt: Prompt
    answers: list[Answer]
    probe: PruningTrace | None  # influence in every layer of the full model, from an untimed run
    machine: dict

    @property
    def same(self) -> bool:
        """Did the last answer say the same as the first, but for case and outer blanks?"""
        return self.answers[-1].says_as(self.answers[0])

    @property
    def word_diff(self) -> list[tuple[str, str]]:
        """The two answers word by word: ("same" | "full" | "pruned", words)."""
        first, last = (self.answers[i].text.split() for i in (0, -1))
        parts = []
        for kind, a, b, c, d in difflib.SequenceMatcher(None, first, last).get_opcodes():
            if kind == "equal":
                parts.append(("same", " ".join(first[a:b])))
                continue
            parts += [("full", " ".join(first[a:b]))] if a < b else []
            parts += [("pruned", " ".join(last[c:d]))] if c < d else []
        return parts

    @property
    def flops_ratio(self) -> float:
        """Executed prefill FLOPs of the language model, first over last: how many times fewer."""
        first, last = (self.answers[i].counts.executed.prefill for i in (0, -1))
        return first / last

    @property
    def first_token_ratio(self) -> float:
        first, last = (self.answers[i].times.first_token for i in (0, -1))
        return first / last

    @property
    def faster(self) -> bool | None:
        """Does the last answer's first token come sooner? None: no measurable difference.

        All silent rounds but one at most must say so, and LEAST_ROUNDS at least: one run says
        nothing.
        """
        ratio = self.first_token_ratio
        return None if self._scattered or not self._noticeable else ratio > 1

    @property
    def uneven(self) -> bool:
        """Do the medians differ, but not the rounds alike? Then the machine was not quiet."""
        return self._scattered and self._noticeable

    @property
    def conclusive(self) -> bool:
        """Do the clocks say anything about speed, be it that there is no difference?"""
        return self.answers[-1].times.rounds >= LEAST_ROUNDS and not self.uneven

    @property
    def _noticeable(self) -> bool:
        return not 1 / NOTICEABLE < self.first_token_ratio < NOTICEABLE

    @property
    def _scattered(self) -> bool:
        first, last = (self.answers[i].times.first_tokens for i in (0, -1))
        sooner = self.first_token_ratio > 1
        agreeing = sum((a > b) == sooner for a, b in zip(first, last, strict=True))
        return agreeing < max(LEAST_ROUNDS, len(first) - 1)

    def clocked(self, taken: Sequence[Sequence[Times]]) -> Comparison:
        """The same answers with the medians of whole silent ones, given per side."""
        answers = [
            replace(answer, times=Times.median(times))
            for answer, times in zip(self.answers, taken, strict=True)
        ]
        return replace(self, answers=answers)

    def to_json(self) -> dict:
        return {
            "question": self.prompt.question,
            "notes": list(self.prompt.notes),
            "same_answer": self.same,
            "guesses": self.prompt.outside,
            "flops_ratio": self.flops_ratio,
            "first_token_ratio": self.first_token_ratio,
            "answers": [answer.to_json() for answer in self.answers],
            "probe": self.probe.to_json() if self.probe else None,
            "machine": self.machine,
        }
