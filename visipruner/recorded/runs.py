"""A saved run: its answers and counters as the objects that viewer, charts and reports draw."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from visipruner.errors import Refused
from visipruner.flops import ExecutedFlops
from visipruner.inputs import MAX_QUESTION
from visipruner.layout import TokenLayout
from visipruner.prompt import Prompt
from visipruner.recorded.checked import Node, same_length
from visipruner.recorded.pictures import blank_sheets, read_sheets, seen_json
from visipruner.recorded.traces import MOST_STEPS, read_trace
from visipruner.running.results import FILE_VERSION, Answer, Comparison, Counts, Times
from visipruner.trace import PruningTrace

MOST_SIDES = 40
MACHINE = ("model", "device", "threads", "dtype", "attention", "python", "torch", "transformers")
NOT_SAVED = "not saved"
NO_DATE = "The date was not saved with this run."
_NAME = re.compile(r"[\w .,:;+@%()/-]{1,300}")  # of a side; charts would read tags in it
_MOST_MS = 1e12
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
    def label(self) -> str:
        """That nothing of this was measured here; when and where it was."""
        date, machine = self.comparison.date, self.comparison.machine
        when = f" {datetime.fromisoformat(date):%Y-%m-%d %H:%M}" if date else ""
        line = f"Recorded{when} on {machine['device']}, with {machine['model']}"
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
    answers = [_answer(one) for one in node.get("answers").each(MOST_SIDES, least=2)]
    _check_together(node, answers)
    probe = (found := node.find("probe")) and _probe(found, answers[0].trace)
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


# -- answers


def _answer(node: Node) -> Answer:
    trace = read_trace(node.get("trace"))
    tokens = node.get("tokens").wholes(0, 10**9, MOST_STEPS)
    times, counts = _times(node.get("times")), _counts(node.get("counts"), len(trace.layers))
    return Answer(node.get("text").words(), tokens, times, counts, trace)


def _times(node: Node) -> Times:
    fixed = {name: node.get(name).number(0, _MOST_MS) for name in ("vision", "prefill", "total")}
    first = node.get("first_token").number(1e-9, _MOST_MS)
    token = node.find("per_token")
    rounds, whole = node.find("rounds"), node.find("whole")
    firsts = node.find("first_tokens")
    return Times(
        **fixed,
        first_token=first,
        per_token=None if token is None else token.number(0, _MOST_MS),
        rounds=0 if rounds is None else rounds.whole(0, 1000),
        first_tokens=() if firsts is None else tuple(firsts.numbers(0, _MOST_MS, 1000)),
        whole=False if whole is None else whole.flag(),
    )


def _counts(node: Node, layers: int) -> Counts:
    executed, per_layer = node.get("executed"), node.get("executed_per_layer")
    peak = node.find("peak_bytes")
    found = Counts(
        ExecutedFlops(
            executed.get("prefill").whole(1),
            executed.get("probe").whole(),
            executed.get("decode").whole(),
        ),
        [one.whole() for one in per_layer.each(layers)],
        node.get("vision").whole(),
        node.get("paper_macs").whole(),
        node.get("attention_paper").number(0, 1e6),
        node.get("attention_executed").number(0, 1e6),
        node.get("kv_bytes").whole(),
        None if peak is None else peak.whole(),
    )
    same_length(found.executed_per_layer, range(layers), per_layer)
    return found


def _probe(node: Node, first: PruningTrace) -> PruningTrace:
    trace = read_trace(node)
    _check_same_prompt(node, trace, first)
    return trace


def _check_together(node: Node, answers: Sequence[Answer]):
    """Refuse answers that cannot be compared: of several prompts, or with unequal clocks."""
    first = answers[0]
    for one, answer in zip(node.get("answers").each(MOST_SIDES), answers, strict=True):
        _check_same_prompt(one, answer.trace, first.trace)
        if len(answer.times.first_tokens) != len(first.times.first_tokens):
            raise one.get("times").refuse("of as many rounds as the first answer's")


def _check_same_prompt(node: Node, trace: PruningTrace, first: PruningTrace):
    facts = [(t.length, t.spans, t.grids, len(t.layers)) for t in (trace, first)]
    if facts[0] != facts[1]:
        raise Refused(f"This saved run is damaged: {node.place} is of another prompt or model.")
