"""The bundled model's accuracy, unpruned and with every preset, with 95% intervals.

    python -m visipruner evaluate --quick         # 20 questions per skill, unpruned
    python -m visipruner evaluate --write         # 300 per skill; stop and go on at will

Two sets: scenes from seeds outside the training, and scenes of colour-shape pairs outside it.
Decoding is greedy. A description's score is its share of right facts.

    python -m visipruner evaluate --model tiny-aligned --beside tiny --write

Two models on the same held-out questions, against the second one unpruned. With
`--stock` a model runs without the schedule that it was trained for, as stock transformers runs it.

    python -m visipruner evaluate --jsonl FILE --model MODEL --methods visipruner fastv@64

Questions of your own to any model: one JSON object a line with picture (relative to the file),
question and, if known, answer or answers, and tags. Writes how often each method is right, and how
often it says the same as the unpruned model, per tag. Stop and go on at will.

    python -m visipruner evaluate --tasks pope,gqa --model MODEL --methods visipruner fastv@64

Benchmarks of lmms-eval, with all its flags (NOTES.md).
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

from visipruner.choice import method_at
from visipruner.errors import Refused
from visipruner.evaluation import lmms, own_command
from visipruner.evaluation.intervals import finite, paired_difference, wilson
from visipruner.evaluation.interview import (
    FORMS,
    add_common,
    folder_of,
    interview,
    open_model,
    share_cut,
)
from visipruner.files import write_whole
from visipruner.inputs import check_choice
from visipruner.levels import PRESETS
from visipruner.methods import PruningMethod, VisiPruner
from visipruner.methods.trained import IN_PRESETS
from visipruner.methods.visipruner import SEMANTICS
from visipruner.models.catalogue import VLM
from visipruner.world.questions import SKILLS

SETS = ("heldout", "unseen")
QUICK, FULL = 20, 300  # questions per skill and set
UNPRUNED = "unpruned"
# Each skill; all answers in one requested form (a description has one form only); everything.
GROUPS = (*SKILLS, *FORMS, "all")
# The model card's tables each stand between two of these; other rules than the paper's have
# their own.
MARK, MARK_BESIDE, MARK_RULES = "<!-- results -->", "<!-- beside -->", "<!-- {rules} -->"


def columns(vlm: VLM, presets: bool, rules: str = "paper") -> dict[str, PruningMethod]:
    """What to compare: the unpruned model, and VisiPruner at each preset, by these rules."""
    found = {UNPRUNED: PruningMethod()}
    if presets and not vlm.serves(VisiPruner):
        found |= {name: method_at(vlm, "visipruner", name, rules) for name in PRESETS}
    return found


def summary(rows: list[dict], reference: str = UNPRUNED) -> list[dict]:
    """One line per column, set and group: the share of right answers, its interval, the FLOPs cut
    and, for other columns than the reference, the paired difference from its answers."""
    table = []
    for column, split in dict.fromkeys((row["column"], row["set"]) for row in rows):
        for skill in GROUPS:
            mine, full = (_chosen(rows, name, split, skill) for name in (column, reference))
            scores = [row["score"] for row in mine]
            low, high = wilson(sum(scores), len(scores))
            line = {"column": column, "set": split, "skill": skill, "questions": len(scores)}
            line |= {"right": sum(scores) / len(scores), "low": low, "high": high}
            if column != reference or "dense" in mine[0]:  # a model's own schedule cuts too
                line["flops_cut"] = share_cut(mine, full)
            if column != reference:
                pairs = paired_difference([row["score"] for row in full], scores)
                line["difference"] = [finite(number) for number in pairs]
            table.append(line)
    return table


def _chosen(rows: list[dict], column: str, split: str, skill: str) -> list[dict]:
    """The rows of a column and a set that belong to one of `GROUPS`."""
    return [
        row
        for row in rows
        if (row["column"], row["set"]) == (column, split)
        and skill in (row["skill"], row["form"], "all")
    ]


def as_markdown(table: list[dict]) -> str:
    """One line per group, one column per set and method; then the cost and savings of pruning."""
    heads = list(dict.fromkeys((line["column"], line["set"]) for line in table))
    cells = {(line["column"], line["set"], line["skill"]): line for line in table}
    lines = ["| skill | questions | " + " | ".join(f"{c}, {s}" for c, s in heads) + " |"]
    lines.append("|---" * (2 + len(heads)) + "|")
    for skill in GROUPS:
        shown = [cells[c, s, skill] for c, s in heads]
        values = [f"{x['right']:.1%} ({x['low']:.1%}-{x['high']:.1%})" for x in shown]
        counts = dict.fromkeys(str(line["questions"]) for line in shown)  # two, if sets differ
        lines.append(f"| {skill} | {', '.join(counts)} | " + " | ".join(values) + " |")
    totals = [cells[c, s, "all"] for c, s in heads]
    if any("difference" in line for line in totals):
        lost = [_points(line.get("difference")) for line in totals]
        cut = [f"{line['flops_cut']:.1%}" if "flops_cut" in line else "" for line in totals]
        lines.append("| points against unpruned | | " + " | ".join(lost) + " |")
        lines.append("| prefill FLOPs cut | | " + " | ".join(cut) + " |")
    return "\n".join(lines)


def _points(difference) -> str:
    if difference is None:
        return ""
    mean, low, high = (100 * value for value in difference)  # of GROUPS' "all", so of many
    return f"{mean:+.1f} ({low:+.1f} to {high:+.1f})"


def write_results(folder: Path, table: list[dict], name: str = "evaluation", mark: str = MARK):
    """Write the table as data beside the weights, and as text between the model card's marks."""
    write_whole(folder / f"{name}.json", json.dumps(table, indent=1) + "\n")
    card = folder / "README.md"
    before, _, rest = card.read_text("utf-8").partition(mark)
    after = rest.partition(mark)[2]
    write_whole(card, f"{before}{mark}\n{as_markdown(table)}\n{mark}{after}")


def add_options(parser: argparse.ArgumentParser):
    """Add the command's options."""
    add_common(parser)
    own_command.add_options(parser)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} per skill, unpruned only")
    parser.add_argument("--questions", type=int, help="per skill and set, another number")
    parser.add_argument("--tasks", help="benchmarks of lmms-eval, by comma; takes its flags too")
    parser.add_argument("--beside", metavar="MODEL", help="compare with this model, unpruned")
    parser.add_argument("--stock", action="store_true", help="without the model's own schedule")
    parser.add_argument(
        "--rules",
        default="paper",
        help=f"VisiPruner's at the presets: {', '.join(SEMANTICS)}; others on held-out scenes only",
    )
    parser.add_argument("--write", action="store_true", help="put the table beside the weights")


def check_more(options: argparse.Namespace, more: list[str]) -> str:
    """What is wrong with flags that this command does not know; those of lmms-eval are its own."""
    return "" if options.tasks else f"unrecognized arguments: {' '.join(more)}"


def run(options: argparse.Namespace):
    """Run the command."""
    if options.tasks and options.jsonl:
        raise Refused("--tasks and --jsonl are two evaluations: name one.")
    if options.tasks:
        return lmms.run(options, options.more)
    if options.jsonl:
        return own_command.run(options)
    if options.beside and options.stock:
        raise Refused("--beside and --stock are two evaluations: name one.")
    if options.stock and options.write:
        raise Refused("--write is for a model as it is meant to run, so not with --stock.")
    check_choice("--rules", options.rules, SEMANTICS)
    vlm, store = open_model(options)
    count = options.questions or (QUICK if options.quick else FULL)
    if options.beside:
        table = compared(vlm, store, options, count)
        print(as_markdown(table))
        if options.write:
            write_results(options.model, table, "beside", MARK_BESIDE)
        return
    if options.stock:
        vlm = without_schedule(vlm)
    sides = columns(vlm, not options.quick, options.rules)
    sets = SETS if options.rules == "paper" else SETS[:1]
    table = summary(interview(vlm, sides, sets, count, store))
    print(as_markdown(table))
    if options.write and options.rules != "paper":
        name, mark = f"evaluation-{options.rules}", MARK_RULES.format(rules=options.rules)
        write_results(options.model, table, name, mark)
    elif options.write:
        write_results(options.model, table)


def compared(vlm: VLM, store: Path, options: argparse.Namespace, count: int) -> list[dict]:
    """The summary of two models on the same held-out questions, against the other one unpruned.

    Raises:
        Refused: there is no such other model, or both are the same.
    """
    folder = folder_of(options.beside)
    if folder.resolve() == options.model.resolve():
        raise Refused("--beside names the model itself; name another one.")
    other, place = open_model(
        argparse.Namespace(**{**vars(options), "model": folder, "store": None})
    )
    rows = []
    for one, answers in ((other, place), (vlm, store)):
        sides = columns(one, not options.quick, options.rules)
        for row in interview(one, sides, ("heldout",), count, answers):
            pruned = "" if row["column"] == UNPRUNED else f", {row['column']}"
            rows.append(row | {"column": f"{one.spec.name}{pruned}"})
    return summary(rows, other.spec.name)


def without_schedule(vlm: VLM) -> VLM:
    """The same model as stock transformers runs it, with all visual tokens in all layers.

    Raises:
        Refused: it has no schedule of its own.
    """
    if vlm.schedule is None:
        raise Refused(f"{vlm.spec.title} has no schedule of its own, so --stock changes nothing.")
    return replace(vlm, presets={k: v for k, v in vlm.presets.items() if k != IN_PRESETS})
