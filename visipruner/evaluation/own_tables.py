"""The results of questions of one's own as CSV, JSON and Markdown."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from html import escape

from visipruner.evaluation.jsonl import Bad
from visipruner.evaluation.tallies import EVERY
from visipruner.recorded.evaluations import Evaluation

DIGITS = 6  # of a share in a file
RULE = (
    "Right, and the same as the baseline's: up to case, punctuation, a, an and the. Brackets hold "
    "95% intervals, Wilson's for shares; differences are paired, question by question. FLOPs are "
    "the language model's in prefill, as executed; tokens are visual tokens per layer, mean."
)
HEAD = ("method", "questions", "right", "points against {}", "same as {}", "FLOPs cut", "tokens")


@dataclass(frozen=True)
class Results:
    """What a finished evaluation found.

    Args:
        made: model, versions, date; all that differs between two equal runs.
        columns: the methods, the baseline first.
        lines: as `tallies.Table.lines`.
        bad: the first lines that were left out, of `skipped`.
    """

    file: str
    made: dict
    columns: tuple[str, ...]
    lines: Sequence[dict]
    bad: Sequence[Bad] = ()
    skipped: int = 0

    def of(self, tag: str | None) -> list[dict]:
        """The lines of one tag."""
        return [line for line in self.lines if line["tag"] == tag]

    @property
    def tags(self) -> list[str]:
        return [
            tag for tag in dict.fromkeys(line["tag"] for line in self.lines) if tag is not EVERY
        ]


def opened(found: Evaluation) -> Results:
    """The results of an evaluation that was opened from a file."""
    return Results(found.file, found.made, found.methods, found.lines, (), found.skipped)


def csv_text(results: Results) -> str:
    """A line per method and tag; an empty tag is all questions."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, results.lines[0], lineterminator="\n")
    writer.writeheader()
    for line in results.lines:
        writer.writerow({name: _cell(value) for name, value in line.items()})
    return stream.getvalue()


def _cell(value):
    """A table program would run a text that begins like a formula."""
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t")):
        return f"'{value}"
    return round(value, DIGITS) if isinstance(value, float) else value


def json_text(results: Results) -> str:
    """Everything."""
    rounded = [
        {name: round(v, DIGITS) if isinstance(v, float) else v for name, v in line.items()}
        for line in results.lines
    ]
    found = {
        "evaluation": results.file,
        "made": results.made,
        "methods": results.columns,
        "skipped": results.skipped,
        "skipped_lines": [asdict(bad) for bad in results.bad],
        "table": rounded,
    }
    return json.dumps(found, indent=1, ensure_ascii=False) + "\n"


def cells(line: dict, baseline: str) -> list[str]:
    """One line of the table in words, as HEAD."""
    first = line["method"] == baseline
    cut = "" if first or line["flops_cut"] is None else f"{line['flops_cut']:.1%}"
    return [
        line["method"],
        _count(line),
        _share(line, "right"),
        "" if first else points(line),
        "" if first else _share(line, "same"),
        cut,
        f"{line['tokens']:.1f}",
    ]


def _count(line: dict) -> str:
    """How many, and how many with a known answer if not all."""
    if line["labelled"] in (0, line["questions"]):
        return f"{line['questions']:,}"
    return f"{line['questions']:,}, {line['labelled']:,} with an answer"


def _share(line: dict, name: str) -> str:
    if line[name] is None:
        return "–"
    return f"{line[name]:.1%} ({line[f'{name}_low']:.1%} to {line[f'{name}_high']:.1%})"


def points(line: dict) -> str:
    """The paired difference in points."""
    mean, low, high = (line[f"difference{end}"] for end in ("", "_low", "_high"))
    if mean is None:
        return "–"
    if low is None or low == high:  # of few questions, no width would look like certainty
        return f"{100 * mean:+.1f} (no interval: {'one question' if low is None else 'all alike'})"
    return f"{100 * mean:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"


def head(baseline: str) -> list[str]:
    return [words.format(baseline) for words in HEAD]


def markdown(results: Results) -> str:
    """The tables with how they were made."""
    made = ", ".join(f"{name} {value}" for name, value in results.made.items())
    parts = [f"# {_plain(results.file)}", f"{_plain(made)}. {RULE}"]
    parts += [_table(results, EVERY)]
    for tag in results.tags:
        parts += [f"## {_plain(tag)}", _table(results, tag)]
    if results.skipped:
        parts += [f"## {results.skipped:,} lines were left out"]
        parts += ["\n".join(f"* line {bad.number}: {_plain(bad.why)}" for bad in results.bad)]
    return "\n\n".join(parts) + "\n"


def _table(results: Results, tag: str | None) -> str:
    baseline = results.columns[0]
    rows = [head(baseline), ["---"] * len(HEAD)]
    rows += [cells(line, baseline) for line in results.of(tag)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _plain(words: str) -> str:
    """Text in which Markdown and HTML find nothing to act on."""
    text = escape(words, quote=False)
    return "".join(f"\\{letter}" if letter in "\\`*_[]|#~!" else letter for letter in text)
