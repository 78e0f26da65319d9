"""Choose VisiPruner's levels for a model: gentle, balanced and aggressive.

    python -m visipruner calibrate MODEL --pictures DIR    or --jsonl FILE

For any model, a name of the menu or a folder: by how often it says the same as without pruning, or,
with --by labels, by how often it is right. A level is the setting that saves most and loses at most
2%, 5% or 15% of the answers. Pictures are asked a few general questions (evaluation/general.py);
the lines of a file are as in `evaluate`. Writes MODEL.presets.json, which page and commands take
with --presets, or by themselves where it lies in VISIPRUNER_MODEL_DIR. Stop and go on at will.

    python -m visipruner calibrate             or only --semantics question
    python -m visipruner calibrate --budgets   only measure the tokens of the presets there are

Without MODEL, for the bundled model on its own validation split:

Every candidate answers the same few validation questions. The best candidates for each preset then
answer many more. The held-out sets are not used. A preset is the most accurate candidate that cuts
enough executed prefill FLOPs, but fewer than the next preset must cut. Writes presets.json, with
the measurements, beside the weights.
"""

from __future__ import annotations

import argparse
import json
import statistics

from visipruner.evaluation import calibrate_own
from visipruner.evaluation.candidates import (
    FIRST_TESTED,
    GOALS,
    QUESTION_FIRST_TESTED,
    candidates,
    choose,
    five,
    shortlist,
    table,
)
from visipruner.evaluation.evaluate import UNPRUNED
from visipruner.evaluation.interview import add_common, interview, open_model, share_cut
from visipruner.files import write_whole
from visipruner.levels import PRESETS, Facts
from visipruner.methods import PruningMethod, VisiPruner
from visipruner.methods.trained import method_for
from visipruner.methods.visipruner import SEMANTICS
from visipruner.models.catalogue import VLM, check_served
from visipruner.world.phrases import SYSTEM

FIRST, FINAL = 3, 20  # questions per skill: to every candidate, then to the finalists


def first_tested(facts: Facts, semantics: str) -> tuple[int, ...]:
    """The layers to begin the test in: of a model's own schedule, all where a cut can save."""
    if facts.scheduled:
        return tuple(range(facts.enter, facts.last))
    return QUESTION_FIRST_TESTED if semantics == "question" else FIRST_TESTED


def measure(vlm: VLM, methods: dict[str, PruningMethod], count: int, store) -> dict[str, dict]:
    """For every method: its accuracy on the validation split, and the share of FLOPs it cuts.

    `cut_of_rest` is the share of what a model's own schedule leaves; goals are about that.
    """
    rows = interview(vlm, {UNPRUNED: PruningMethod(), **methods}, ("validation",), count, store)
    by_column = {name: [r for r in rows if r["column"] == name] for name in (UNPRUNED, *methods)}
    # What a model's own schedule leaves; else the same as the unpruned rows.
    rest = [{"flops": row["flops"]} for row in by_column[UNPRUNED]]
    return {
        name: {
            "right": statistics.mean(row["score"] for row in mine),
            "flops_cut": share_cut(mine, by_column[UNPRUNED]),
            "cut_of_rest": share_cut(mine, rest),
            "tokens": statistics.mean(statistics.mean(row["tokens"]) for row in mine),
            "questions": len(mine),
        }
        for name, mine in by_column.items()
    }


def measure_budgets(vlm: VLM, presets: dict, count: int, store) -> dict:
    """The presets with each one's mean visual tokens per layer, as `for_budget` reads them."""
    for semantics in (name for name in SEMANTICS if name in presets):
        given = {"semantics": semantics}
        methods = {n: method_for(VisiPruner, PRESETS[n], None, vlm.facts(), given) for n in GOALS}
        found = measure(vlm, methods, count, store)
        means = [round(found[name]["tokens"], 1) for name in GOALS]
        presets[semantics]["tokens"] = five(means, round(found[UNPRUNED]["tokens"], 1))
    return presets


def add_options(parser: argparse.ArgumentParser):
    """Add the command's options."""
    add_common(parser)
    parser.add_argument(
        "--questions",
        type=int,
        help="to all candidates; of your own in all, usually "
        f"{calibrate_own.FIRST}; of the bundled model's per skill, usually {FIRST}",
    )
    parser.add_argument(
        "--final",
        type=int,
        help="to the best of them; of your own in all, usually "
        f"{calibrate_own.FINAL}; of the bundled model's per skill, usually {FINAL}",
    )
    parser.add_argument("--budgets", action="store_true", help="measure tokens, choose nothing")
    calibrate_own.add_options(parser)


def run(options: argparse.Namespace):
    """Run the command."""
    if options.own_model or options.jsonl or options.pictures:
        return calibrate_own.run(options)
    vlm, store = open_model(options)
    known, chosen = vlm.presets or {}, options.semantics or SEMANTICS
    calibrate_own.check_semantics(chosen, known)
    options.questions, options.final = options.questions or FIRST, options.final or FINAL
    if options.budgets:
        presets = measure_budgets(vlm, dict(known), options.final, store)
        write_whole(options.model / "presets.json", json.dumps(presets, indent=1) + "\n")
        return
    check_served(vlm, [VisiPruner])
    presets = {"system": SYSTEM, **known}
    for semantics in chosen:
        methods = candidates(semantics, first_tested(vlm.facts(), semantics))
        for count in (options.questions, options.final):
            found = measure(vlm, {str(m): m for m in methods}, count, store)
            full = found.pop(UNPRUNED)
            tried = [(method, found[str(method)]) for method in methods]
            print(f"{semantics}: {full['right']:.1%} of {full['questions']} questions, unpruned")
            for method, result in sorted(tried, key=lambda pair: pair[1]["flops_cut"]):
                print(f"{result['flops_cut']:6.1%} cut, {result['right']:6.1%} right: {method}")
            methods = shortlist(tried)
        presets[semantics] = table(choose(tried), full["tokens"])
        asked = {"questions": full["questions"], "right": round(full["right"], 4)}
        presets[semantics]["measured"][UNPRUNED] = asked
    write_whole(options.model / "presets.json", json.dumps(presets, indent=1) + "\n")
