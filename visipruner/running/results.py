"""The results of a run: answers with their times and counts, and comparisons of answers."""

from __future__ import annotations

import difflib
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace

from visipruner.errors import Refused
from visipruner.flops import ExecutedFlops
from visipruner.inputs import check_number, set_whole
from visipruner.prompt import Prompt
from visipruner.trace import PruningTrace

FILE_VERSION = 2  # of `Comparison.to_json`; files of version 1 say none
LEAST_TEMPERATURE = 0.01  # scores divided by much less become infinite
LEAST_ROUNDS = 3  # a median of fewer says no more than one run
LEAST_STEPS = 3  # the same for decoded tokens; a one-word answer has only the end token after it
NOTICEABLE = 1.05  # a ratio of clocks nearer to 1 may be noise
CLOCKS = ("vision", "prefill", "first_token", "per_token", "total")  # of Times, in their order


@dataclass(frozen=True)
class Options:
    """How to answer. Temperature 0 is greedy decoding; any other is at least 0.01.

    Raises:
        Refused: a value is out of range.
    """

    max_new_tokens: int = 96
    temperature: float = 0.0
    seed: int = 0
    probe: bool = True  # also measure influence in every layer of the full model, untimed
    clock_rounds: int = 5  # maximum silent repeats for a steadier clock: 0, or >= LEAST_ROUNDS

    def __post_init__(self):
        set_whole(self, "max_new_tokens", 1, 1024)
        # transformers accepts only a float.
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

    `rounds` = 0: all times are from the single shown run. Otherwise vision, prefill and first token
    are medians of `rounds` silent repeats, which alternate with the other sides' repeats.
    `first_tokens` lists their first tokens. The total is the median first token plus the rest of
    the shown run. `whole`: the repeats decoded whole answers, and every time is their median.
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
        """The medians of whole answers; `per_token` is None if no answer has one."""
        found = {}
        for name in CLOCKS:
            values = [value for times in taken if (value := getattr(times, name)) is not None]
            found[name] = statistics.median(values) if values else None
        firsts = tuple(times.first_token for times in taken)
        return cls(**found, rounds=len(taken), first_tokens=firsts, whole=True)

    def with_first(self, taken: Sequence[Times]) -> Times:
        """These times, with the medians of silent runs up to the first token."""
        median = Times.median(taken)
        total = median.first_token + self.total - self.first_token
        return replace(median, per_token=self.per_token, total=total, whole=False)


@dataclass(frozen=True)
class Counts:
    """FLOPs and bytes of one answer. The names say how each was counted."""

    executed: ExecutedFlops
    executed_per_layer: list[int]
    vision: int
    paper_macs: int
    attention_paper: float
    attention_executed: float
    kv_bytes: int
    peak_bytes: int | None  # measured, above the bytes before the run; None on a CPU
    dense: int = 0  # prefill FLOPs if every layer computed all tokens


@dataclass(frozen=True)
class Answer:
    """One method's answer, its costs and its trace."""

    text: str
    tokens: list[int]
    times: Times
    counts: Counts
    trace: PruningTrace

    def says_as(self, other: Answer) -> bool:
        """Are the words the same, up to case and outer blanks?"""
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
class Pair:
    """Two answers to one question: the baseline's and another side's.

    Args:
        name: the other side's name in `Comparison.names`.
        called: what a sentence calls the two runs.
        outside: the picture is outside the model's training, so both answers are guesses.
        probe: influence in every layer of the full model, if it was measured.
    """

    baseline: Answer
    answer: Answer
    name: str = ""
    called: tuple[str, str] = ("full", "pruned")
    outside: bool = False
    probe: PruningTrace | None = field(default=None, repr=False)

    @property
    def answers(self) -> tuple[Answer, Answer]:
        return self.baseline, self.answer

    @property
    def same(self) -> bool:
        """Are both answers the same, up to case and outer blanks?"""
        return self.answer.says_as(self.baseline)

    @property
    def word_diff(self) -> list[tuple[str, str]]:
        """Both answers word by word: ("same" | "full" | "pruned", words); full is the baseline."""
        first, last = (answer.text.split() for answer in self.answers)
        parts = []
        for kind, a, b, c, d in difflib.SequenceMatcher(None, first, last).get_opcodes():
            if kind == "equal":
                parts.append(("same", " ".join(first[a:b])))
                continue
            parts += [("full", " ".join(first[a:b]))] if a < b else []
            parts += [("pruned", " ".join(last[c:d]))] if c < d else []
        return parts

    @property
    def whole(self) -> int:
        """The prefill FLOPs that the other side's are compared with: the baseline's, as executed.

        Of a model with a schedule of its own: those of all tokens in all layers.
        """
        counts = self.baseline.counts
        return counts.dense if self.baseline.trace.trained else counts.executed.prefill

    @property
    def flops_ratio(self) -> float:
        """`whole` over the other side's executed prefill FLOPs of the language model."""
        return self.whole / self.answer.counts.executed.prefill

    @property
    def first_token_ratio(self) -> float:
        return self.baseline.times.first_token / self.answer.times.first_token

    @property
    def faster(self) -> bool | None:
        """Does the first token come sooner than the baseline's? None: no measurable difference.

        All silent rounds except at most one must agree, and at least LEAST_ROUNDS of them: one run
        proves nothing.
        """
        ratio = self.first_token_ratio
        return None if self._scattered or not self._noticeable else ratio > 1

    @property
    def uneven(self) -> bool:
        """Do the medians differ while the rounds disagree? Then the machine was busy."""
        return self._scattered and self._noticeable

    @property
    def conclusive(self) -> bool:
        """Do the clocks decide about speed? "No difference" is a decision too."""
        return self.answer.times.rounds >= LEAST_ROUNDS and not self.uneven

    @property
    def _noticeable(self) -> bool:
        return not 1 / NOTICEABLE < self.first_token_ratio < NOTICEABLE

    @property
    def _scattered(self) -> bool:
        first, last = (answer.times.first_tokens for answer in self.answers)
        sooner = self.first_token_ratio > 1
        agreeing = sum((a > b) == sooner for a, b in zip(first, last, strict=True))
        return agreeing < max(LEAST_ROUNDS, len(first) - 1)

    def to_json(self) -> dict:
        return {
            "name": self.name,
            "same_answer": self.same,
            "flops_ratio": self.flops_ratio,
            "first_token_ratio": self.first_token_ratio,
            "faster": self.faster,
            "uneven": self.uneven,
        }


def _of_last(name: str) -> property:
    return property(lambda self: getattr(self.last, name), doc=f"`{name}` of the last pair.")


@dataclass(frozen=True)
class Comparison:
    """Answers to one question, the baseline first.

    Args:
        probe: influence in every layer of the full model, from an untimed run.
        words: what a person called each side, such as "fastv:gentle"; empty: the methods' names.
        date: when it was measured, in ISO format; "": not known.
    """

    prompt: Prompt
    answers: list[Answer]
    probe: PruningTrace | None
    machine: dict
    words: tuple[str, ...] = ()
    date: str = ""

    @property
    def names(self) -> list[str]:
        """Each side's name; a repeated name gets a number."""
        words = self.words or tuple(answer.trace.method for answer in self.answers)
        counts = [words[: number + 1].count(word) for number, word in enumerate(words)]
        pairs = zip(words, counts, strict=True)
        return [word if count == 1 else f"{word} ({count})" for word, count in pairs]

    @property
    def pairs(self) -> list[Pair]:
        """The baseline paired with every other answer."""
        return [self._pair(side) for side in range(1, len(self.answers))]

    @property
    def last(self) -> Pair:
        """The first answer paired with the last; a single answer is paired with itself."""
        return self._pair(len(self.answers) - 1)

    same, word_diff, called = _of_last("same"), _of_last("word_diff"), _of_last("called")
    flops_ratio, first_token_ratio = _of_last("flops_ratio"), _of_last("first_token_ratio")
    faster, uneven, conclusive = _of_last("faster"), _of_last("uneven"), _of_last("conclusive")

    @property
    def outside(self) -> bool:
        return self.prompt.outside

    def _pair(self, side: int) -> Pair:
        first, answer, name = self.answers[0], self.answers[side], self.names[side]
        unpruned = first.trace.method == "none"
        called = "full" if unpruned else self.names[0], name
        if unpruned and len(self.answers) <= 2:
            called = "full", "second" if answer.trace.method == "none" else "pruned"
        return Pair(first, answer, name, called, self.outside, self.probe)

    def clocked(self, taken: Sequence[Sequence[Times]]) -> Comparison:
        """The same answers with the medians of whole silent answers, given per side."""
        answers = [
            replace(answer, times=Times.median(times))
            for answer, times in zip(self.answers, taken, strict=True)
        ]
        return replace(self, answers=answers)

    def to_json(self) -> dict:
        """Everything; `same_answer` and the top-level ratios are the last pair's."""
        named = zip(self.names, self.answers, strict=True)
        return {
            "version": FILE_VERSION,
            "date": self.date,
            "question": self.prompt.question,
            "notes": list(self.prompt.notes),
            "same_answer": self.same,
            "guesses": self.outside,
            "flops_ratio": self.flops_ratio,
            "first_token_ratio": self.first_token_ratio,
            "answers": [{"name": name, **answer.to_json()} for name, answer in named],
            "pairs": [pair.to_json() for pair in self.pairs],
            "probe": self.probe.to_json() if self.probe else None,
            "machine": self.machine,
        }
