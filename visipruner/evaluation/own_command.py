"""`evaluate --jsonl`: the command around own.py."""

from __future__ import annotations

import argparse
import datetime
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import torch

from visipruner.choice import kinds_of, parse
from visipruner.errors import Refused
from visipruner.evaluation import jsonl, own_page, own_tables
from visipruner.evaluation.answers import Answers
from visipruner.evaluation.items import Wished
from visipruner.evaluation.own import Asking
from visipruner.evaluation.own_files import ANSWERS, FILES, answer_line, write
from visipruner.evaluation.own_tables import Results
from visipruner.evaluation.progress import Progress
from visipruner.evaluation.tallies import Table
from visipruner.files import (
    NotWritten,
    check_place,
    growing,
    print_whole,
    same_file,
    shown,
)
from visipruner.inputs import check_choice, check_number
from visipruner.models import clip
from visipruner.models.catalogue import MODELS, VLM, check_served, load_vlm, spec_of
from visipruner.models.console import stay_quiet_and_offline, tell_progress
from visipruner.models.loading import PRECISIONS
from visipruner.models.presets import uncalibrated
from visipruner.running.clocks import machine
from visipruner.tower import needs_clip
from visipruner.versions import __version__

BASELINE = "none"
USUAL = (BASELINE, "visipruner:gentle", "visipruner:balanced", "visipruner:aggressive")
MOST_METHODS = 32  # each is a column
MOST_TOKENS = 96  # of an answer, as in `ask`
BAD_LINES = ("refuse", "skip")
TOLD = 10  # bad lines that are named while the command runs; the results name more
STORE = "answers.db"


def add_options(parser: argparse.ArgumentParser):
    """The options of questions of one's own."""
    group = parser.add_argument_group("of your own questions")
    group.add_argument("--jsonl", type=Path, metavar="FILE", help="a JSON object a line")
    group.add_argument(
        "--methods",
        nargs="+",
        metavar="METHOD",
        help="METHOD, METHOD:LEVEL, METHOD@TOKENS, METHOD@25%%, and stacks of them; the unpruned "
        f"baseline {BASELINE} comes first by itself",
    )
    group.add_argument("--out", type=Path, metavar="DIR", help="where the results go")
    group.add_argument(
        "--presets", type=Path, metavar="FILE", help="VisiPruner's levels, from `calibrate`"
    )
    add_reading(group)


def add_reading(group):
    """Options of all commands that read questions of one's own."""
    group.add_argument("--bad-lines", default="refuse", help=f"one of: {', '.join(BAD_LINES)}")
    group.add_argument("--max-new-tokens", type=int, default=MOST_TOKENS, help="of an answer")
    group.add_argument("--device", help="cpu or cuda; the default is a GPU if there is one")
    group.add_argument("--precision", default="auto", help=f"one of: {', '.join(PRECISIONS)}")


def run(options: argparse.Namespace):
    """Ask every question, and write the results.

    Raises:
        Refused: one sentence about the first thing that is wrong; finished answers are kept.
    """
    for name in ("quick", "questions", "write"):
        if getattr(options, name):
            raise Refused(f"--{name} is for the bundled model's own questions, not for --jsonl.")
    check_reading(options)
    words = columns_of(options.methods or USUAL)
    kinds = kinds_of(words)
    model = model_of(options.model)
    check_served(spec_of(model), kinds)
    found = survey(options)
    folder = _folder(options.out or Path(f"{options.jsonl.stem}-results"), options.jsonl)
    vlm = open_own(options, model, kinds)
    check_served(vlm, kinds)
    columns = {one: Wished(one) for one in words}
    # A wrong wish must fail now.
    if said := uncalibrated(vlm, [side.made(vlm) for side in columns.values()]):
        say(f"note: {said}")
    skip = options.bad_lines == "skip"
    with closing(Answers(options.store or folder / STORE)) as store:
        asking = Asking(vlm, columns, options.jsonl, store, options.max_new_tokens, skip)
        results, gallery = ask_all(asking, found, folder)
    write(folder, results, gallery, {"methods": words, "max_new_tokens": options.max_new_tokens})
    rows = [own_tables.head(BASELINE), *(own_tables.cells(x, BASELINE) for x in results.of(None))]
    print_whole("\n".join([*map(" | ".join, rows), f"{shown(folder)}: {', '.join(FILES)}"]))


# -- before the model is loaded


def check_reading(options: argparse.Namespace):
    """Check `add_reading`'s options and the threads."""
    check_choice("--bad-lines", options.bad_lines, BAD_LINES)
    check_choice("precision", options.precision, PRECISIONS)
    check_number("--max-new-tokens", options.max_new_tokens, 1, 1024, integer=True)
    check_number("--threads", options.threads, 1, 100_000, integer=True)


def columns_of(methods: Sequence[str]) -> list[str]:
    """The wishes as they are named, the baseline first.

    Raises:
        Refused: one that cannot be read, or too many.
    """
    found = list(dict.fromkeys([BASELINE, *("".join(words.split()) for words in methods)]))
    for words in found:
        parse(words)
    if not 2 <= len(found) <= MOST_METHODS:
        raise Refused(
            f"--methods needs 1 to {MOST_METHODS - 1} methods besides {BASELINE}, "
            f"not {len(found) - 1}."
        )
    return found


def model_of(given: Path | str) -> str | Path:
    """The model as `load_vlm` takes it: a name of the menu, or a folder."""
    # `folder_of` has already turned the name of a bundled model into its folder.
    bundled = {Path(spec.path): name for name, spec in MODELS.items() if spec.path}
    name = bundled.get(Path(given).absolute(), str(given))
    return name if name in MODELS else Path(given)


def survey(options: argparse.Namespace) -> jsonl.Survey:
    """Read the whole file once, and say what is odd in it."""
    told = 0

    def skip(bad: jsonl.Bad):
        nonlocal told
        told += 1
        if told <= TOLD:
            say(f"left out: {bad.of(options.jsonl)}")

    found = jsonl.survey(options.jsonl, skip if options.bad_lines == "skip" else None)
    if told > TOLD:
        say(f"left out: {told - TOLD:,} more lines")
    if found.unused:
        named = ", ".join(f"{name!r:.60}" for name in found.unused)
        say(f"note: fields that are not used: {named}")
    unknown = found.questions - found.labelled
    if unknown:
        say(f"note: {unknown:,} of {found.questions:,} questions have no known answer")
    return found


def say(line: str):
    """Tell the user what is no result."""
    sys.stderr.write(f"{line}\n")


def _folder(path: Path, questions: Path) -> Path:
    """The folder for the results, made if it is not there.

    Raises:
        Refused: it cannot be made or written in, or a result would replace the questions.
    """
    try:
        path.mkdir(exist_ok=True)
    except OSError as error:
        raise Refused(f"The folder {shown(path)} cannot be made: {error.strerror}.") from None
    for name in FILES:
        check_place(path / name)
        if same_file(path / name, questions):
            raise Refused(
                f"The result {name} would replace the questions: name another folder by --out."
            )
    return path


def open_own(options: argparse.Namespace, model: str | Path, kinds) -> VLM:
    """The model, loaded as the options say, with CLIP for methods that need it."""
    stay_quiet_and_offline()
    torch.set_num_threads(options.threads)
    vlm = load_vlm(
        model,
        device=options.device,
        precision=options.precision,
        on_progress=tell_progress,
        presets=getattr(options, "presets", None),
    )
    if needs_clip(kinds):
        clip.fetch(tell_progress)
    return vlm


# -- asking


def ask_all(asking: Asking, found: jsonl.Survey, folder: Path):
    """(the results, the gallery) of all questions; `answers.jsonl` is written on the way."""
    columns, gallery = tuple(asking.columns), own_page.Gallery()
    table, progress = Table(columns, found.tags), Progress(found.questions)
    try:
        with growing(folder / ANSWERS) as file:
            for told in asking.told():
                table.add(told.rows, told.line.tags)
                answers = {name: row["answer"] for name, row in told.rows.items()}
                gallery.add(told.line, answers)
                file.write(answer_line(told, asking.file))
                progress.step(told.asked)
    except KeyboardInterrupt:
        say(f"\nstopped: {progress.line()}; what is answered is kept, and the same command goes on")
        raise
    except NotWritten as error:
        raise Refused(f"{error} All answers are kept; the same command goes on.") from None
    say_left_out(asking, found)
    if not progress.done:
        raise Refused(f"No question of {shown(asking.file)} could be asked.")
    return _results(asking, table), gallery


def say_left_out(asking: Asking, found: jsonl.Survey):
    """Say which questions proved unusable only when they were asked."""
    if asking.late:
        more, last = asking.skipped - found.skipped, asking.late.of(asking.file)
        say(f"left out while asking: {more:,} more, such as: {last}")


def _results(asking: Asking, table: Table) -> Results:
    made = {
        "model": asking.vlm.spec.title,
        "date": datetime.date.today().isoformat(),
        "visipruner": __version__,
        **{name: value for name, value in machine(asking.vlm).items() if name != "model"},
    }
    columns = tuple(asking.columns)
    return Results(asking.file.name, made, columns, table.lines(), asking.bad, asking.skipped)
