"""The report of a finished evaluation, `results.json` of `evaluate --jsonl`, checked."""

from __future__ import annotations

from dataclasses import dataclass

from visipruner.recorded.checked import Node

MOST_LINES = 20_000  # methods times tags
MOST_METHODS = 100
MOST_LETTERS = 1_000
SHARES = ("right", "right_low", "right_high", "same", "same_low", "same_high")
DIFFERENCES = ("difference", "difference_low", "difference_high")


@dataclass(frozen=True)
class Evaluation:
    """What a finished evaluation found.

    Args:
        file: the questions' file.
        made: model, date, machine, in words.
        methods: the baseline first.
        lines: per method and tag, as `evaluation.tallies.Table.lines`.
        skipped: how many lines of the file were left out.
    """

    file: str
    made: dict[str, str]
    methods: tuple[str, ...]
    lines: tuple[dict, ...]
    skipped: int

    @property
    def label(self) -> str:
        """When, where and by which model, as every recorded number must say."""
        made = ", ".join(f"{name} {value}" for name, value in self.made.items())
        return f"Recorded: {made}." if made else "Recorded."


def read_evaluation(data: dict) -> Evaluation:
    """An evaluation from parsed JSON.

    Raises:
        Refused: one sentence with the place of the fault.
    """
    whole = Node(data)
    made = whole.get("made").plain()
    if not isinstance(made, dict):
        raise whole.get("made").refuse("an object")
    methods = [one.words(MOST_LETTERS) for one in whole.get("methods").each(MOST_METHODS, 1)]
    lines = [_line(one, methods) for one in whole.get("table").each(MOST_LINES, 1)]
    return Evaluation(
        whole.get("evaluation").words(MOST_LETTERS),
        {name: str(value)[:MOST_LETTERS] for name, value in made.items() if value is not None},
        tuple(methods),
        tuple(lines),
        whole.get("skipped").whole(),
    )


def _line(node: Node, methods: list[str]) -> dict:
    method = node.get("method")
    if method.value not in methods:
        raise method.refuse("one of the file's methods")
    tag = node.find("tag")
    line = {"method": method.value, "tag": tag and tag.words(MOST_LETTERS)}
    line["questions"] = node.get("questions").whole(1)
    line["labelled"] = node.get("labelled").whole(0, line["questions"])
    for name in SHARES:
        line[name] = _number(node, name, -1, 2)  # an interval may reach a hair beyond 0 and 1
    for name in DIFFERENCES:
        line[name] = _number(node, name, -2, 2)
    line["flops_cut"] = _number(node, "flops_cut", -1e6, 1)
    line["tokens"] = node.get("tokens").number(0, 1e9)
    for name in ("right", "same"):
        if line[name] is not None and None in (line[f"{name}_low"], line[f"{name}_high"]):
            raise node.get(name).refuse("beside its interval")
    ends = line["difference_low"], line["difference_high"]  # both are missing of one question
    if None in ends and ends != (None, None):
        raise node.get("difference").refuse("beside both ends of its interval, or none")
    return line


def _number(node: Node, name: str, low: float, high: float) -> float | None:
    found = node.find(name)
    return None if found is None else found.number(low, high)
