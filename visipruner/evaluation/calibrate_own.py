"""`calibrate MODEL`: VisiPruner's levels for any model, on pictures of one's own.

Two rounds: every candidate answers a few questions, then the best of each tested layer many more.
A level is the finalist that saves most and loses no more answers than candidates.LOSSES allows. The
questions are spread evenly over the file.
"""

from __future__ import annotations

import argparse
import datetime
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from visipruner.choice import read_presets
from visipruner.errors import Refused
from visipruner.evaluation import own_command
from visipruner.evaluation.answers import Answers
from visipruner.evaluation.candidates import (
    LOSSES,
    best_of_each_layer,
    candidates,
    choose_by_loss,
    table,
)
from visipruner.evaluation.general import write_questions
from visipruner.evaluation.jsonl import Survey
from visipruner.evaluation.own import Asking
from visipruner.evaluation.own_command import BASELINE
from visipruner.evaluation.progress import Progress
from visipruner.evaluation.tallies import Table
from visipruner.files import check_place, print_whole, shown, write_whole
from visipruner.inputs import check_choice, check_number
from visipruner.methods import PruningMethod, VisiPruner
from visipruner.methods.visipruner import SEMANTICS
from visipruner.models.catalogue import VLM, check_served, spec_of
from visipruner.models.checkpoint import fingerprint
from visipruner.models.presets import ENDING, MADE, is_calibrated, shelf_file
from visipruner.running.clocks import machine
from visipruner.versions import __version__

FIRST, FINAL = 20, 200  # questions: to every candidate, then to the finalists
BY = {"agreement": "same", "labels": "right"}  # what is best -> its figure in a tally
# Where to look for a filtering layer from, as shares of the layers: from a fifth, where LLaVA-1.5
# begins (7 of 32), to four fifths, behind which little can be saved.
TESTED = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
FIGURES = ("right", "right_low", "right_high", "same", "same_low", "same_high", "flops_cut")


def add_options(parser: argparse.ArgumentParser):
    """The options of calibrating any model."""
    group = parser.add_argument_group("of any model")
    group.add_argument(
        "own_model", nargs="?", metavar="MODEL", help="a name of the menu, or a folder"
    )
    group.add_argument("--pictures", type=Path, metavar="DIR", help="its pictures, without answers")
    group.add_argument("--jsonl", type=Path, metavar="FILE", help="questions, as in `evaluate`")
    group.add_argument("--by", default="agreement", help=f"what is best: {' or '.join(BY)}")
    group.add_argument(
        "--semantics",
        nargs="+",
        help=f"VisiPruner as in: {', '.join(SEMANTICS)}; each takes as long again. Usually paper, "
        "of the bundled model all; its settings for the others stay",
    )
    group.add_argument("--out", type=Path, metavar="FILE", help=f"else MODEL{ENDING}")
    own_command.add_reading(group)


@dataclass(frozen=True)
class Plan:
    """What the options mean, checked before a model is loaded."""

    model: str | Path
    name: str
    out: Path
    folder: Path
    jsonl: Path
    found: Survey
    judged: int  # questions that can decide: those with a known answer, if labels do
    left_out: int  # pictures that cannot be read


def run(options: argparse.Namespace):
    """Calibrate, and write the presets.

    Raises:
        Refused: one sentence about the first thing that is wrong; finished answers are kept.
    """
    plan = _plan(options)
    vlm = own_command.open_own(options, plan.model, [VisiPruner])
    check_served(vlm, [VisiPruner])
    presets = {MADE: {}}
    with closing(Answers(options.store or plan.folder / own_command.STORE)) as store:
        rounds = _Rounds(options, plan, vlm, store)
        for semantics in options.semantics:
            presets[semantics] = rounds.settings(semantics)
    presets[MADE] = _made(options, plan, vlm, rounds)
    write_whole(plan.out, (json.dumps(presets, indent=1, ensure_ascii=False) + "\n").encode())
    own = is_calibrated(read_presets(Path(vlm.spec.path)))  # the folder's own come first
    found_alone = plan.out == shelf_file(plan.name) and not own
    print_whole("\n".join(_lines(presets, plan, options.by, found_alone)))


# -- before the model is loaded


def _plan(options: argparse.Namespace) -> Plan:
    if bool(options.pictures) == bool(options.jsonl):
        raise Refused("Name --pictures DIR or --jsonl FILE: the questions that decide.")
    if options.budgets:
        raise Refused("--budgets is for the bundled model's own presets.")
    own_command.check_reading(options)
    check_choice("--by", options.by, BY)
    options.semantics = options.semantics or ["paper"]
    check_semantics(options.semantics)
    options.questions, options.final = options.questions or FIRST, options.final or FINAL
    for name in ("questions", "final"):
        check_number(f"--{name}", getattr(options, name), 2, 100_000, integer=True)
    model = own_command.model_of(options.own_model or options.model)
    spec = spec_of(model)
    check_served(spec, [VisiPruner])
    out = options.out or shelf_file(spec.name) or Path(f"{spec.name}{ENDING}")
    check_place(out)
    folder, left_out = Path(f"{spec.name}-calibration"), 0
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise Refused(f"The folder {shown(folder)} cannot be made: {error.strerror}.") from None
    if options.pictures:
        options.jsonl, options.bad_lines = folder / "questions.jsonl", "skip"
        left_out = write_questions(options.pictures, options.jsonl)
    found = own_command.survey(options)
    if options.by == "labels" and found.labelled < 2:
        raise Refused(f"{shown(options.jsonl)} has no answers, so --by must be agreement.")
    judged = found.labelled if options.by == "labels" else found.questions
    return Plan(model, spec.name, out, folder, options.jsonl, found, judged, left_out)


def check_semantics(names: Sequence[str], kept: Iterable[str] = ()):
    """Check what is to be calibrated.

    Args:
        kept: what a file of presets has already, and keeps.

    Raises:
        Refused: one is not known, or the file would not have the paper's settings.
    """
    for name in names:
        check_choice("semantics", name, SEMANTICS)
    if "paper" not in {*names, *kept}:
        raise Refused("--semantics must have paper: every file of presets has its settings.")


def spread(count: int, total: int) -> Callable[[int], bool]:
    """Which of `total` numbers to take, so that `count` are spread evenly."""
    return lambda number: (number + 1) * count // total > number * count // total


# -- asking


class _Rounds:
    """Two rounds of questions per semantics."""

    def __init__(self, options, plan: Plan, vlm: VLM, store: Answers):
        self.options, self.plan, self.vlm, self.store = options, plan, vlm, store
        self.questions = 0  # to the finalists
        self.skipped = 0

    def settings(self, semantics: str) -> dict:
        """The presets' settings, as levels.py reads them."""
        layers = self.vlm.facts().layers
        tested = sorted({max(1, round(share * layers)) for share in TESTED})
        methods = candidates(semantics, tested)
        for number, count in enumerate((self.options.questions, self.options.final), 1):
            count = min(count, self.plan.judged)
            told = f"answers of round {number} of 2, {semantics}"
            measured = self._measure(methods, count, told)
            full = measured.pop(BASELINE)
            tried = [(method, measured[str(method)]) for method in methods]
            methods = best_of_each_layer(tried)
        chosen = choose_by_loss(tried, full["right"])
        self.questions = full["questions"]
        found = table(chosen, full["tokens"])
        found["measured"] = {
            name: {
                "questions": result["questions"],
                "lost": _rounded(full["right"] - result["right"]),
            }
            | {key: _rounded(result["figures"][key]) for key in FIGURES}
            for name, (_, result) in chosen.items()
        }
        return found

    def _measure(self, methods: Sequence[VisiPruner], count: int, told: str) -> dict[str, dict]:
        """For the baseline and every method, as `candidates.choose` wants it."""
        columns = {BASELINE: PruningMethod(), **{str(method): method for method in methods}}
        tallies, progress = Table(columns, ()), Progress(count * len(columns), told)
        asking = Asking(
            self.vlm, columns, self.plan.jsonl, self.store, self.options.max_new_tokens,
            self.options.bad_lines == "skip", self.options.by == "labels",
            spread(count, self.plan.judged), progress.step,
        )  # fmt: skip
        try:
            for one in asking.told():
                tallies.add(one.rows, ())
        except KeyboardInterrupt:
            own_command.say(
                f"\nstopped: {progress.line()}; all answers are kept, and the same command goes on"
            )
            raise
        self.skipped = asking.skipped
        own_command.say_left_out(asking, self.plan.found)
        lines = tallies.lines()
        if not lines:
            raise Refused(f"No question of {shown(self.plan.jsonl)} could be asked.")
        return {line["method"]: self._result(line) for line in lines}

    def _result(self, line: Mapping) -> dict:
        return {
            "right": line[BY[self.options.by]],
            "flops_cut": line["flops_cut"],
            "tokens": line["tokens"],
            "questions": line["questions"],
            "figures": line,
        }


def _figures(result: Mapping, full: float) -> dict:
    """What a file says of a preset."""
    found = {"questions": result["questions"], "lost": _rounded(full - result["right"])}
    return found | {key: _rounded(result["figures"][key]) for key in FIGURES}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _made(options, plan: Plan, vlm: VLM, rounds: _Rounds) -> dict:
    """How the file was made."""
    config = vlm.model.config
    return {
        "by": options.by,
        "model": plan.name,
        "kind": config.model_type,
        "layers": vlm.facts().layers,
        "weights": fingerprint(Path(vlm.spec.path)),
        "questions": rounds.questions,
        "may_lose": LOSSES,
        "first_round": min(options.questions, plan.judged),
        "left_out": plan.left_out + rounds.skipped,
        "file": options.pictures.name if options.pictures else plan.jsonl.name,
        "max_new_tokens": options.max_new_tokens,
        "date": datetime.date.today().isoformat(),
        "visipruner": __version__,
        **{name: value for name, value in machine(vlm).items() if name != "model"},
        "note": "measured on the questions that decided, so somewhat too good",
    }


def _lines(presets: Mapping, plan: Plan, by: str, found_alone: bool) -> list[str]:
    """The result for a terminal.

    Args:
        found_alone: the model finds the file without being told.
    """
    key, lines = BY[by], []
    for semantics in (name for name in SEMANTICS if name in presets):
        for name, found in presets[semantics]["measured"].items():
            share = f"{found[key]:.1%} ({found[f'{key}_low']:.1%} to {found[f'{key}_high']:.1%})"
            word = "the same answers as unpruned" if by == "agreement" else "right"
            short = "" if found["lost"] <= LOSSES[name] else f", more lost than {LOSSES[name]:.0%}"
            lines.append(
                f"{semantics}, {name}: {found['flops_cut']:.1%} of the prefill FLOPs cut; "
                f"{share} {word}{short}, {found['questions']:,} questions"
            )
    used = "" if found_alone else f"; use it with --presets {plan.out}"
    return [*lines, f"written: {shown(plan.out)}{used}"]
