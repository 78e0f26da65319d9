"""The one table of counters: each one's name, kind, and value for an answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from visipruner.render.numbers import amount, duration, flops, in_bytes
from visipruner.running.results import Answer

FORMULA, EXECUTED, MEASURED = "formula", "executed", "measured"
GPU_ONLY = "GPU only"


@dataclass(frozen=True)
class Counter:
    """One row.

    Args:
        name: in code.
        words: its name in a table.
        kind: how it is known: "formula", "executed" or "measured".
        read: answer -> the value as it is shown.
        group: a heading before this row.
        short: its name in the command's output; "": left out there.
    """

    name: str
    words: str
    kind: str
    read: Callable[[Answer], str]
    group: str = ""
    short: str = ""


def _clock(name: str, words: str, field: str, group: str = "", short: str = "") -> Counter:
    read = lambda answer: duration(getattr(answer.times, field))  # noqa: E731 - one line a row
    return Counter(name, words, MEASURED, read, group, short or field)


def _work(name: str, words: str, read: Callable, group: str = "", short: str = "") -> Counter:
    return Counter(name, words, EXECUTED, lambda answer: flops(read(answer.counts)), group, short)


def _attention(name: str, words: str, kind: str, field: str) -> Counter:
    read = lambda answer: f"{getattr(answer.counts, field):.1%}"  # noqa: E731
    return Counter(name, words, kind, read, short="attention to the picture")


def _macs(answer: Answer) -> str:
    return amount(answer.counts.paper_macs, "MAC")


def _budget(answer: Answer) -> str:
    return f"{answer.trace.mean_tokens:.1f} of {answer.trace.num_visual}"


def _peak(answer: Answer) -> str:
    return GPU_ONLY if answer.counts.peak_bytes is None else in_bytes(answer.counts.peak_bytes)


_PAPER = "as the paper counts"
ROWS = (
    _clock("vision", "Vision tower, shared by all", "vision", "Time"),
    _clock("prefill", "Prefill: reading the prompt", "prefill"),
    _clock("first", "First word after", "first_token", short="first token"),
    _clock("token", "Each further token", "per_token", short="per token"),
    _clock("total", "Whole answer", "total"),
    Counter("budget", "Visual tokens per layer, in the mean", EXECUTED, _budget, "Computing"),
    _work("flops", "Computing to read the prompt", lambda c: c.executed.prefill, short="prefill"),
    _work("probe", "… of it the method's own test", lambda c: c.executed.probe, short="its test"),
    _work("decode", "Computing to write the answer", lambda c: c.executed.decode, short="decoding"),
    _work("tower", "Vision tower, shared by all", lambda c: c.vision),
    Counter("macs", f"Visual tokens only, {_PAPER}", FORMULA, _macs, short="visual tokens"),
    _attention("attention", "Attention to the picture, as it ran", EXECUTED, "attention_executed"),
    _attention(
        "attention_paper", f"Attention to the picture, {_PAPER}", FORMULA, "attention_paper"
    ),
    Counter(
        "kv",
        "Key-value cache after prefill",
        EXECUTED,
        lambda answer: in_bytes(answer.counts.kv_bytes),
        "Memory",
        "KV cache",
    ),
    Counter("peak", "Peak memory of this run", MEASURED, _peak),
)
WORDS = {row.name: row.words for row in ROWS}


def line(answer: Answer, kind: str) -> str:
    """An answer's counters of one kind: "prefill 1.2 GFLOP, its test 0 FLOP, ..."."""
    rows = [row for row in ROWS if row.kind == kind and row.short]
    return ", ".join(f"{row.short} {row.read(answer)}" for row in rows)


def cut_of(answer: Answer) -> float | None:
    """The share of the prefill FLOPs of all tokens in all layers that a run saved.

    None if the model has no schedule of its own: the unpruned run then tells the same.
    """
    whole = answer.counts.dense
    return 1 - answer.counts.executed.prefill / whole if answer.trace.trained and whole else None
