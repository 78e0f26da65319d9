"""Benchmarks by lmms-eval: its stock tasks and its flags, this project's models and methods.

`evaluate --tasks` ends here. Each method is one run of lmms-eval; all of them share one model and
one store of answers. lmms-eval itself swallows exceptions and exits with 0; this module calls what
lies below, so every failure ends the command with a sentence or a report.
"""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import closing, contextmanager
from importlib import metadata
from pathlib import Path

from visipruner.choice import kinds_of
from visipruner.errors import Refused
from visipruner.evaluation import lmms_table
from visipruner.evaluation.answers import Answers
from visipruner.evaluation.items import key_of
from visipruner.evaluation.own_command import (
    STORE,
    USUAL,
    check_reading,
    columns_of,
    model_of,
    open_own,
)
from visipruner.files import print_whole, shown, write_whole
from visipruner.models.catalogue import check_served, spec_of

PINNED = "0.7.3"  # its saved samples' layout is no promise
OUT = Path("lmms-results")
REQUIREMENTS = "visipruner/evaluation/lmms-requirements.txt"
# Flags of lmms-eval that this command sets itself, or that would be wrong in silence.
OURS = {
    "--model": "name the model once, before the flags of lmms-eval",
    "--model_args": "the methods are given by --methods",
    "--use_cache": "answers are kept with their costs anyway, and the same command goes on",
    "--log_samples": "samples are always saved",
    "--predict_only": "nothing would be compared",
    "--baseline": "the differences are in the table",
    "--config": "give its flags instead",
}

LETTERS = {"--use_cache": "-c", "--predict_only": "-x"}  # lmms-eval's short names of them


def check(options: argparse.Namespace, more: list[str]):
    """Check what costs nothing to check.

    Raises:
        Refused: lmms-eval is missing or another release, or a flag that cannot be served.
    """
    try:
        found = metadata.version("lmms-eval")
    except metadata.PackageNotFoundError:
        raise Refused(
            f"Benchmarks need lmms-eval {PINNED}, in an environment of its own: the three lines "
            f"are in {REQUIREMENTS.rpartition('/')[0]}/NOTES.md."
        ) from None
    if found != PINNED:
        raise Refused(f"lmms-eval {found} is installed, and {PINNED} is what works; see NOTES.md.")
    for word in more:
        flag = word.partition("=")[0]
        for known in OURS:
            if _means(flag, known):
                raise Refused(f"{flag} is not taken here: {OURS[known]}.")


def run(options: argparse.Namespace, more: list[str]):
    """Run the tasks with every method, and print and save the tables.

    Args:
        options: model, methods, tasks. more: flags for lmms-eval, as typed.

    Raises:
        Refused: one sentence; what was answered is kept.
    """
    check(options, more)
    rank = int(os.environ.get("RANK", 0))
    out = Path(options.out or _given(more, "--output_path") or OUT)
    check_reading(options)
    names, model = columns_of(options.methods or USUAL), model_of(options.model)
    kinds = kinds_of(names)
    check_served(spec_of(model), kinds)
    options.device = _device(options)
    _make(out)
    from visipruner.evaluation.lmms_model import register, serving
    from visipruner.evaluation.lmms_session import Session

    vlm = open_own(options, model, kinds)
    check_served(vlm, kinds)
    register()
    results = []
    with closing(Answers(options.store or out / STORE)) as store:
        with serving(Session(vlm, names, store, key_of(vlm))):
            for column, name in enumerate(names):
                results.append(_one(column, name, options.tasks, out, more))
    if rank:
        return  # lmms-eval gathers everything in process 0
    tables = lmms_table.tables(dict(zip(names, results, strict=True)))
    text = lmms_table.as_markdown(tables)
    facts = {"model": str(model), "precision": vlm.precision, "lmms_eval": PINNED}
    write_whole(out / "visipruner.json", lmms_table.as_json(tables, facts))
    write_whole(out / "visipruner.md", text + "\n")
    # Last, because printing may fail, and the tables must not be lost.
    print_whole(f"{text}\nsaved in {shown(out)}")


def _make(out: Path):
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Refused(f"The folder {shown(out)} cannot be made: {error.strerror}.") from None


def _one(column: int, name: str, tasks: str, out: Path, more: list[str]) -> tuple:
    """(results, samples) of one method from lmms-eval; (None, None) except in process 0."""
    from lmms_eval.__main__ import cli_evaluate_single, parse_eval_args

    from visipruner.evaluation.lmms_model import NAME

    folder = out / name.replace(":", "-").replace("/", "-")
    own = ["--model", NAME, "--model_args", f"column={column}", "--tasks", tasks, "--log_samples"]
    # The last one given counts, and ours must.
    with arguments(["lmms-eval", *more, *own, "--output_path", str(folder)]):
        _, parsed = parse_eval_args()
        try:
            return cli_evaluate_single(parsed)
        except ValueError as error:
            if isinstance(error, Refused) or "Tasks not found" not in str(error):
                raise
            raise Refused(str(error).partition(". ")[0] + ".") from None


@contextmanager
def arguments(words: list[str]):
    """sys.argv for a program that reads nothing else."""
    before, sys.argv = sys.argv, words
    try:
        yield
    finally:
        sys.argv = before


def _given(more: list[str], flag: str) -> str | None:
    """The value of a flag in "--flag value" or "--flag=value"; the last one counts."""
    found = None
    for number, word in enumerate(more):
        name, equals, value = word.partition("=")
        if _means(name, flag):
            found = value if equals else "".join(more[number + 1 : number + 2])
    return found


def _means(word: str, flag: str) -> bool:
    """Does argparse take a word as this flag? It takes a beginning of it too, or its letter."""
    if word.startswith("--"):
        return len(word) > 2 and flag.startswith(word)
    return flag in LETTERS and word.startswith(LETTERS[flag])


def _device(options: argparse.Namespace) -> str | None:
    """Where the model goes: --device, or this process's own GPU."""
    import torch

    if options.device or not torch.cuda.is_available():
        return options.device
    processes = int(os.environ.get("WORLD_SIZE", 1))
    return f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if processes > 1 else None
