"""Choose VisiPruner's presets for the bundled model on the validation split.

    python -m visipruner calibrate
    python -m visipruner calibrate --budgets   only measure the tokens of the presets there are

Every candidate answers the same few validation questions. The best candidates for each preset then
answer many more. The held-out sets are not used. A preset is the most accurate candidate that cuts
enough executed prefill FLOPs, but fewer than the next preset must cut. Writes presets.json, with
the measurements, beside the weights.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
from collections.abc import Sequence

from visipruner.evaluation.evaluate import UNPRUNED
from visipruner.evaluation.interview import add_common, interview, open_model, share_cut
from visipruner.files import write_whole
from visipruner.levels import PRESETS, Facts
from visipruner.methods import PruningMethod, VisiPruner
from visipruner.methods.trained import IN_PRESETS, method_for
from visipruner.models.catalogue import VLM, check_served
from visipruner.world.phrases import SYSTEM

# The share of FLOPs that a preset must cut.
GOALS = {"gentle": 0.15, "balanced": 0.4, "aggressive": 0.55}
# The model has no layers that use vision as a sink only (dynamics.py), so no stage edits any.
STAGES = ("middle", "deep")
# Each word that the model writes reads the picture again in the lower layers: they keep the cache.
CACHE = "full"
FIRST_TESTED = (4, 5, 6, 7, 8)
COSINES = (0.995, 0.999)
# Shares of sqrt(1 - cosine^2): below 1 the kept set is never empty.
SHARES = (0.01, 0.03, 0.15)
EXIT = 0.999
FINALISTS = 4  # per preset


def first_tested(facts: Facts) -> tuple[int, ...]:
    """The layers to begin the test in: of a model's own schedule, all where a cut can save."""
    return tuple(range(facts.enter, facts.last)) if facts.scheduled else FIRST_TESTED


def candidates(semantics: str, tested: Sequence[int] = FIRST_TESTED) -> list[VisiPruner]:
    """Every setting to try.

    Args:
        tested: layers to begin the test in.
    """
    return [
        VisiPruner(
            semantics=semantics,
            stages=STAGES,
            # The published code starts to test one layer after its shallow layers end.
            shallow_layers=first - (semantics == "official"),
            layer_threshold=cosine,
            tokens_threshold=round(share * (1 - cosine**2) ** 0.5, 4),
            relative=True,
            exit_threshold=EXIT,
            cache_before_filter=CACHE if semantics == "paper" else "kept",
        )
        for first, cosine, share in itertools.product(tested, COSINES, SHARES)
    ]


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


def choose(tried: list[tuple[VisiPruner, dict]]) -> dict[str, tuple[VisiPruner, dict]]:
    """For each preset the most accurate candidate that cuts enough, but less than the next preset
    must. Of equally accurate candidates, the cheapest."""
    chosen = {}
    for (name, goal), most in zip(GOALS.items(), [*list(GOALS.values())[1:], 1], strict=True):
        enough = [pair for pair in tried if goal <= _cut(pair[1]) < most]
        # If no candidate fits, take the one below the goal that cuts most.
        below = [pair for pair in tried if _cut(pair[1]) < goal] or tried
        enough = enough or [max(below, key=lambda pair: _cut(pair[1]))]
        chosen[name] = max(enough, key=lambda pair: (pair[1]["right"], _cut(pair[1])))
    return chosen


def _cut(result: dict) -> float:
    """What a goal is about."""
    return result.get("cut_of_rest", result["flops_cut"])


def shortlist(tried: list[tuple[VisiPruner, dict]]) -> list[VisiPruner]:
    """For every preset, the few best candidates."""
    found = []
    for _ in range(FINALISTS):
        picks = [method for method, _ in choose(tried).values()]
        found = list(dict.fromkeys([*found, *picks]))  # two presets may pick the same one
        tried = [pair for pair in tried if pair[0] not in picks] or tried
    return found


def table(chosen: dict, full_tokens: float) -> dict:
    """Thresholds at the five levels 0, 0.25, 0.5, 0.75 and 1, as levels.py reads them.

    No run uses level 0 (it keeps everything); level 1 is the strongest preset.
    """
    picks = [chosen[name][0] for name in GOALS]
    rows = {"stages": STAGES, "relative": True}
    rows["cache_before_filter"] = picks[0].cache_before_filter
    for name in ("shallow_layers", "layer_threshold", "tokens_threshold", "exit_threshold"):
        values = [getattr(method, name) for method in picks]
        rows[name] = _five(values, values[0])
    means = [round(chosen[name][1]["tokens"], 1) for name in GOALS]
    rows["tokens"] = _five(means, full_tokens)
    rows["measured"] = {
        name: {key: round(result[key], 4) for key in ("right", "flops_cut")}
        for name, (_, result) in chosen.items()
    }
    return rows


def _five(values: list, first) -> list:
    """The values at the five levels, from those of three presets."""
    return [first, *values, values[-1]]


def measure_budgets(vlm: VLM, presets: dict, count: int, store) -> dict:
    """The presets with each one's mean visual tokens per layer, as `for_budget` reads them."""
    for semantics in ("paper", "official"):
        given = {"semantics": semantics}
        methods = {n: method_for(VisiPruner, PRESETS[n], None, vlm.facts(), given) for n in GOALS}
        found = measure(vlm, methods, count, store)
        means = [round(found[name]["tokens"], 1) for name in GOALS]
        presets[semantics]["tokens"] = _five(means, round(found[UNPRUNED]["tokens"], 1))
    return presets


def add_options(parser: argparse.ArgumentParser):
    """Add the command's options."""
    add_common(parser)
    parser.add_argument("--questions", type=int, default=3, help="per skill, all candidates")
    parser.add_argument("--final", type=int, default=20, help="per skill, the best of them")
    parser.add_argument("--budgets", action="store_true", help="measure tokens, choose nothing")


def run(options: argparse.Namespace):
    """Run the command."""
    vlm, store = open_model(options)
    if options.budgets:
        presets = measure_budgets(vlm, dict(vlm.presets), options.final, store)
        write_whole(options.model / "presets.json", json.dumps(presets, indent=1) + "\n")
        return
    check_served(vlm, [VisiPruner])
    presets = {"system": SYSTEM}
    presets |= {IN_PRESETS: vlm.presets[IN_PRESETS]} if vlm.schedule else {}
    for semantics in ("paper", "official"):
        methods = candidates(semantics, first_tested(vlm.facts()))
        for count in (options.questions, options.final):
            found = measure(vlm, {str(m): m for m in methods}, count, store)
            full = found.pop(UNPRUNED)
            tried = [(method, found[str(method)]) for method in methods]
            print(f"{semantics}: {full['right']:.1%} of {full['questions']} questions, unpruned")
            for method, result in sorted(tried, key=lambda pair: pair[1]["flops_cut"]):
                print(f"{result['flops_cut']:6.1%} cut, {result['right']:6.1%} right: {method}")
            methods = shortlist(tried)
        presets |= {"questions": full["questions"], "unpruned": round(full["right"], 4)}
        presets[semantics] = table(choose(tried), full["tokens"])
    write_whole(options.model / "presets.json", json.dumps(presets, indent=1) + "\n")
