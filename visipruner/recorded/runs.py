"""A saved run: its answers and counters as the objects that viewer, charts and reports draw."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from visipruner.errors import Refused
from visipruner.inputs import MAX_QUESTION
from visipruner.layout import TokenLayout
from visipruner.prompt import Prompt
from visipruner.recorded.answers import MOST_SIDES, read_answers, read_probe
from visipruner.recorded.checked import Node, same_length
from visipruner.recorded.pictures import blank_sheets, read_sheets, seen_json
from visipruner.running.results import FILE_VERSION, Answer, Comparison
from visipruner.trace import PruningTrace

MACHINE = ("model", "device", "threads", "dtype", "attention", "python", "torch", "transformers")
NOT_SAVED = "not saved"
NO_DATE = "The date was not saved with this run."
_NAME = re.compile(r"[\w .,:;+@%()/-]{1,300}")  # of a side; charts would read tags in it
_MOST_NOTES = 100


@dataclass(frozen=True)
class Truth:
    """The true answer of a saved run, and how much of it each answer had."""

    answer: str
    found: dict[str, tuple[int, int]]

    def facts(self, answer: str) -> tuple[int, int]:
        """Right facts and all facts of one of the run's answers."""
        return self.found[answer]

    def fits(self, answer: str) -> bool:
        right, total = self.facts(answer)
        return right == total


@dataclass(frozen=True)
class Run:
    """A run from a file. It was measured elsewhere, at another time.

    Args:
        settings: as the page saved them.
        notes: sentences about picture, question and what stayed.
        stays: for each side but the baseline, what its surviving patches show; "": unknown.
        missing: a sentence for everything that the file does not hold.
    """

    comparison: Comparison
    settings: dict
    notes: tuple[str, ...] = ()
    stays: tuple[str, ...] = ()
    truth: Truth | None = None
    missing: tuple[str, ...] = ()

    @property
    def when(self) -> str:
        """The day, minute and time zone with a blank before; "" if the file does not say it."""
        date = self.comparison.date
        return f" {datetime.fromisoformat(date):%Y-%m-%d %H:%M %Z}".rstrip() if date else ""

    @property
    def label(self) -> str:
        """That nothing of this was measured here; when and where it was."""
        machine = self.comparison.machine
        line = f"Recorded{self.when} on {machine['device']} with the model “{machine['model']}”"
        line = f"{line}. Opened from a file: nothing of it was computed or measured here."
        return " ".join([line, *self.missing])

    @property
    def own_notes(self) -> tuple[str, ...]:
        """The notes without those about what stayed, which are the last ones."""
        return self.notes[: len(self.notes) - sum(map(bool, self.stays))]


def file_of(run) -> dict:
    """A run or a page's result as it is saved.

    Args:
        run: has `comparison`, `settings`, `notes`, `stays` and `truth`, as `Run`.
    """
    answers, truth = run.comparison.answers, run.truth
    body = run.comparison.to_json()
    body["truth"] = truth and {
        "answer": truth.answer,
        "right": [truth.fits(answer.text) for answer in answers],
        "facts": [list(truth.facts(answer.text)) for answer in answers],
    }
    return {"settings": run.settings, **body, "notes": list(run.notes), "stays": list(run.stays)}


def with_picture(body: dict, prompt: Prompt) -> dict:
    """A saved run that also holds what the model saw, so that it can be drawn without the model."""
    return {**body, "seen": seen_json(prompt)}


def as_text(body: dict) -> str:
    """A file's content, without blanks: a large model's run must stay below the page's limit."""
    return json.dumps(body, separators=(",", ":"))


# -- reading


def read_run(data: dict) -> Run:
    """A run of any age.

    Raises:
        Refused: one sentence about the first wrong value.
    """
    node, missing = Node(data), []
    _check_version(node)
    date = _date(node.find("date"))
    missing += [] if date else [NO_DATE]
    answers = read_answers(node)
    probe = read_probe(node.find("probe"), answers[0].trace)
    prompt, said = _prompt(node, answers[0].trace)
    words = _names(node)
    machine = _machine(node.find("machine"))
    comparison = Comparison(prompt, answers, probe, machine, words, date)
    settings = (given := node.find("settings")) and given.plain()
    return Run(
        comparison,
        settings if isinstance(settings, dict) else _settings(comparison),
        _sentences(node.find("notes")),
        _stays(node.find("stays"), len(answers) - 1),
        _truth(node.find("truth"), answers),
        (*missing, *said),
    )


def _check_version(node: Node):
    version = node.find("version")
    found = 1 if version is None else version.whole(1, 10**6)
    if found > FILE_VERSION:
        raise Refused(
            f"This file was saved by a newer version (file version {found}; this one reads up to "
            f"{FILE_VERSION}): update this one."
        )


def _date(node: Node | None) -> str:
    if node is None or node.value == "":
        return ""
    words = node.words(40)
    try:
        datetime.fromisoformat(words)
    except ValueError:
        raise node.refuse("a date and time") from None
    return words


def _machine(node: Node | None) -> dict:
    found = {name: node and node.find(name) for name in MACHINE}
    plain = {name: one.plain() for name, one in found.items() if one}
    return {
        name: one[:200] if isinstance(one := plain.get(name), str)
        else one if isinstance(one, int) else NOT_SAVED
        for name in MACHINE
    }  # fmt: skip


def _prompt(node: Node, trace: PruningTrace) -> tuple[Prompt, list[str]]:
    """The prompt as far as a drawing needs it, and what is missing."""
    layout = TokenLayout(trace.length, tuple(map(tuple, trace.spans)), tuple(trace.grids))
    outside = bool((guesses := node.find("guesses")) and guesses.flag())
    question, notes = node.get("question").words(MAX_QUESTION), _sentences(node.find("notes"))
    if (seen := node.find("seen")) is None:
        sheets, missing = blank_sheets(layout)
        return Prompt(question, "", {}, layout, sheets, (), notes, outside), [missing]
    visual = trace.num_visual
    sheets = read_sheets(seen.get("sheets"), visual)
    padding = tuple(seen.get("padding").wholes(0, visual - 1, visual))
    text = seen.get("prompt").words()
    return Prompt(question, text, {}, layout, sheets, padding, notes, outside), []


def _names(node: Node) -> tuple[str, ...]:
    """The sides' names; files that are older have none, and the methods name them."""
    found = []
    for one in node.get("answers").each(MOST_SIDES):
        if (name := one.find("name")) is None:
            return ()
        if not _NAME.fullmatch(words := name.words(300)):
            raise name.refuse("the name of a side, without marks such as <")
        found.append(words)
    return tuple(found)


def _sentences(node: Node | None) -> tuple[str, ...]:
    return tuple(one.words(5_000) for one in node.each(_MOST_NOTES)) if node else ()


def _stays(node: Node | None, sides: int) -> tuple[str, ...]:
    found = _sentences(node) or ("",) * sides
    if node is not None:
        same_length(found, range(sides), node)
    return found


def _settings(comparison: Comparison) -> dict:
    """What a run from the command line was set to, from its traces."""
    named = zip(comparison.names, comparison.answers, strict=True)
    return {"fields": {name: answer.trace.settings for name, answer in named}}


def _truth(node: Node | None, answers: Sequence[Answer]) -> Truth | None:
    if node is None:
        return None
    right = [one.flag() for one in node.get("right").each(MOST_SIDES)]
    same_length(right, answers, node.get("right"))
    pairs = [(int(one), 1) for one in right]
    if facts := node.find("facts"):
        pairs = [tuple(one.wholes(0, 1000, 2)) for one in facts.each(MOST_SIDES)]
        same_length(pairs, answers, facts)
        if not all(len(pair) == 2 and pair[0] <= pair[1] for pair in pairs):
            raise facts.refuse("pairs: right facts, all facts")
    found = {answer.text: pair for answer, pair in zip(answers, pairs, strict=True)}
    return Truth(node.get("answer").words(5_000), found)
