"""The bundled model's curve: accuracy against executed FLOPs, every method on the same axes.

    python -m visipruner tradeoff --write             507 held-out questions a point; stop, go on
    python -m visipruner tradeoff --final WISH ...    then points that claim a goal, on all 3,900
    python -m visipruner tradeoff --only WISH ... --write      these; the other points stay

Writes tradeoff.json beside the weights, and into assets the README's figure, tradeoff.svg, and all
points and the agreement between methods, tradeoff.md.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from visipruner.choice import (
    Side,
    make,
    method_at,
    methods_of,
    name_of,
    parse,
    settings_of_side,
)
from visipruner.errors import Refused
from visipruner.evaluation.evaluate import FULL, UNPRUNED
from visipruner.evaluation.intervals import paired_difference, wilson
from visipruner.evaluation.interview import add_common, interview, open_model, share_cut
from visipruner.evaluation.overlaps import agreement
from visipruner.evaluation.tradeoff_picture import PICTURE, label, picture
from visipruner.evaluation.tradeoff_tables import TABLES, tables
from visipruner.files import shown as named
from visipruner.files import write_whole
from visipruner.levels import PRESETS, Facts
from visipruner.methods import METHODS, PruningMethod
from visipruner.methods.trained import least_of, reachable_of
from visipruner.models.catalogue import MODELS, VLM, ModelSpec
from visipruner.running.clocks import machine
from visipruner.training.config import FOLDER
from visipruner.world.questions import SKILLS

PER_SKILL = 39  # of 13 skills: 507 questions
# Shares of the visual tokens, as means per layer: 432 to 9 of 24 x 24. Some are those of pooling.
# A method skips those below its least, but has FEWEST points.
SHARES = (3 / 4, 1 / 2, 3 / 8, 1 / 4, 1 / 6, 1 / 9, 1 / 16, 1 / 36, 1 / 64)
FEWEST = 5
STACKS = (
    "visionzip+visipruner",
    "vispruner+visipruner",
    "divprune+visipruner",
    "pool+visipruner",
)
PLACED = "places kept, "  # before the wish of a point whose methods renumber nothing
BY_QUESTION = "by the question, "  # before the wish of a point by VisiPruner's rules of that name
RIVAL = "pool"  # VTC-Bench's smaller picture
ADAPTS = "visipruner"  # to the question, so it has presets and no budgets
CUTS = (0.4, 0.5, 0.6, 0.7, 0.8)  # where methods are compared at equal FLOPs
GOAL_CUT, GOAL_LOSS = 0.75, 0.01


def contestants(vlm: VLM) -> dict[str, Side]:
    """Every point of the curve: its wish as `choice.parse` reads it -> the method or stack."""
    facts, found = vlm.facts(), {UNPRUNED: PruningMethod()}
    adapts = not vlm.serves(METHODS[ADAPTS])
    if adapts:
        found |= {f"{ADAPTS}:{level}": method_at(vlm, ADAPTS, level) for level in PRESETS}
        found |= {
            f"{BY_QUESTION}{ADAPTS}:{level}": method_at(vlm, ADAPTS, level, "question")
            for level in PRESETS
        }
    for name, kind in METHODS.items():
        if name not in ("none", ADAPTS) and not vlm.serves(kind):
            found |= at_budgets(name, facts)
    for name in STACKS if adapts else ():
        found |= at_budgets(name, facts)
    return found | {
        f"{PLACED}{wish}": without_renumbering(side)
        for wish, side in found.items()
        if any(method.settings.get("renumber") for method in methods_of(side))
    }


def without_renumbering(side: Side) -> Side:
    """The same side; methods that have the choice keep the places of what stays."""
    methods = tuple(
        replace(method, renumber=False) if "renumber" in method.settings else method
        for method in methods_of(side)
    )
    return methods if len(methods) > 1 else methods[0]


def at_budgets(name: str, facts: Facts) -> dict[str, Side]:
    """A method or stack at each budget that its first method can be given."""
    kind = METHODS[name.partition("+")[0]]
    least, few = least_of(kind, facts), reachable_of(kind, facts)
    budgets = [round(share * facts.most) for share in SHARES]
    wishes = [budget for budget in budgets if budget >= least]
    if few is not None and len(few) <= len(budgets):
        wishes = [budget for budget in few if budget < facts.most]
    elif len(wishes) < FEWEST:  # evenly from its least on
        step = (budgets[0] - least) / (FEWEST - 1)
        wishes = [math.ceil(least + step * place) for place in reversed(range(FEWEST))]
    return {f"{name}@{wish:g}": make(parse(f"{name}@{wish:g}"), facts) for wish in wishes}


def points(
    sides: Mapping[str, Side], rows: Sequence[dict], spec: ModelSpec = MODELS["tiny"]
) -> list[dict]:
    """One line per point: FLOPs cut, tokens used, accuracy with interval, paired difference."""
    by_column: dict[str, list[dict]] = {name: [] for name in sides}
    for row in rows:
        by_column[row["column"]].append(row)
    full, pooled = by_column[UNPRUNED], _wrong_when_pooled(by_column)
    return [
        _line(wish, sides[wish], mine, full, pooled)
        | {"untrained": bool(spec.untrained(methods_of(sides[wish])))}
        for wish, mine in by_column.items()
    ]


def _line(wish: str, side: Side, mine: list[dict], full: list[dict], pooled: Mapping) -> dict:
    budget = float(wish.partition("@")[2] or 0) or None
    scores = [[row["score"] for row in rows] for rows in (full, mine)]
    return {
        "point": wish,
        "side": name_of(side),
        "places_kept": wish.startswith(PLACED),
        "budget": budget,
        "settings": settings_of_side(side),
        "tokens": statistics.mean(statistics.mean(row["tokens"]) for row in mine),
        "flops_cut": share_cut(mine, full),
        **_right(mine),
        "difference": paired_difference(*scores),
        "skills": {skill: _right([r for r in mine if r["skill"] == skill]) for skill in SKILLS},
        "where_rival_fails": _among(mine, pooled.get(budget)),
    }


def _right(rows: Sequence[dict]) -> dict:
    scores = [row["score"] for row in rows]
    if not scores:
        return {"questions": 0, "right": None, "low": None, "high": None}
    low, high = wilson(sum(scores), len(scores))
    return {"questions": len(scores), "right": statistics.mean(scores), "low": low, "high": high}


def _wrong_when_pooled(by_column: Mapping[str, list[dict]]) -> dict[float, set]:
    """By budget: the questions that the rival answers wrong, in whole or in part."""
    found = {}
    for wish, rows in by_column.items():
        name, _, budget = wish.partition("@")
        if name == RIVAL and budget:
            found[float(budget)] = {_question(row) for row in rows if row["score"] < 1}
    return found


def _question(row: dict) -> tuple:
    return row["set"], row["skill"], row["number"]


def _among(rows: Sequence[dict], wanted: set | None) -> dict | None:
    if not wanted:
        return None
    return _right([row for row in rows if _question(row) in wanted])


# -- at equal FLOPs


def at_cut(table: Sequence[dict], cut: float) -> dict[str, float]:
    """Accuracy of each side where it cuts this share of the FLOPs, on a line between its points.

    The line begins at the unpruned model. A side whose points do not reach on both sides of the
    share is left out.
    """
    found = {}
    for name in dict.fromkeys(map(label, table)):
        known = [line for line in table if label(line) == name or line["side"] == "none"]
        known.sort(key=lambda line: line["flops_cut"])
        for low, high in itertools.pairwise(known):
            span = high["flops_cut"] - low["flops_cut"]
            if low["flops_cut"] <= cut <= high["flops_cut"] and span:
                part = (cut - low["flops_cut"]) / span
                found[name] = low["right"] + part * (high["right"] - low["right"])
    return found


def goals(table: Sequence[dict]) -> list[str]:
    """The points that meet the goal for stacks by their mean."""
    return [
        line["point"]
        for line in table
        if "+" in line["side"]
        and line["flops_cut"] >= GOAL_CUT
        and line["difference"][0] >= -GOAL_LOSS
    ]


# -- the command


def add_options(parser: argparse.ArgumentParser):
    """Add the command's options."""
    add_common(parser)
    parser.add_argument("--questions", type=int, default=PER_SKILL, help="per skill")
    parser.add_argument("--only", nargs="+", metavar="WISH", help="these points, such as pool@64")
    parser.add_argument(
        "--final",
        nargs="+",
        metavar="WISH",
        help=f"then these points again, with {FULL} questions per skill",
    )
    parser.add_argument("--write", action="store_true", help="put curve and picture into assets")


def run(options: argparse.Namespace):
    """Run the command."""
    vlm, store = open_model(options)
    sides = contestants(vlm)
    chosen = chosen_of(sides, options.only, vlm.facts())
    table = points(chosen, interview(vlm, chosen, ("heldout",), options.questions, store), vlm.spec)
    for line in table:
        print(as_line(line))
    for cut in CUTS:
        ranked = sorted(at_cut(table, cut).items(), key=lambda pair: -pair[1])
        words = ", ".join(f"{name} {right:.1%}" for name, right in ranked)
        print(f"at {cut:.0%} cut: {words}")
    met = ", ".join(goals(table)) or "none"
    print(f"stacks that cut {GOAL_CUT:.0%} or more and lose {GOAL_LOSS:.0%} or less: {met}")
    final = []
    if options.final:
        chosen = chosen_of(sides, options.final, vlm.facts())
        final = points(chosen, interview(vlm, chosen, ("heldout",), FULL, store), vlm.spec)
        for line in final:
            print(as_line(line))
    if options.write and options.only:
        known = recorded(options.model, table)
        table = joined(known, table, list(sides))
        found = curve(vlm, table, final or known["final"], known["agreement"])
        write(options.model, found)
    elif options.write:
        write(options.model, curve(vlm, table, final, agreement(vlm)))


def recorded(folder: Path, table: Sequence[dict]) -> dict:
    """The curve beside the weights, to which the points of `table` are to be added.

    Raises:
        Refused: there is none, or the unpruned model answered other questions or otherwise.
    """
    path = folder / "tradeoff.json"
    if not path.is_file():
        raise Refused(f"{named(folder)} has no tradeoff.json, so --write needs all points.")
    found = json.loads(path.read_text("utf-8"))
    if any(found["unpruned"][key] != table[0][key] for key in ("questions", "right")):
        raise Refused(f"The points in {named(path)} are of other weights or questions.")
    return found


def joined(known: Mapping, table: Sequence[dict], order: Sequence[str]) -> list[dict]:
    """All lines in this order of points; new points replace those of their name."""
    found = {line["point"]: line for line in (known["unpruned"], *known["points"], *table)}
    names = [name for name in order if name in found]
    return [found[name] for name in dict.fromkeys([*names, *found])]


def chosen_of(sides: dict[str, Side], wishes: Sequence[str] | None, facts: Facts) -> dict:
    """The baseline, the sides that were asked for and their rivals; all, if none were.

    Raises:
        Refused: a wish that is no point of the curve and cannot be made.
    """
    if not wishes:
        return sides
    found = {UNPRUNED: sides[UNPRUNED], **{wish: _wished(sides, wish, facts) for wish in wishes}}
    rivals = [f"{RIVAL}@{wish.partition('@')[2]}" for wish in wishes]  # to compare with
    return found | {name: sides[name] for name in rivals if name in sides}


def _wished(sides: dict[str, Side], wish: str, facts: Facts) -> Side:
    if wish in sides:
        return sides[wish]
    given = {"semantics": "question"} if wish.startswith(BY_QUESTION) else None
    side = make(parse(wish.removeprefix(PLACED).removeprefix(BY_QUESTION)), facts, given)
    return without_renumbering(side) if wish.startswith(PLACED) else side


def as_line(line: dict) -> str:
    """One point as a line of text."""
    mean, low, high = (100 * value for value in line["difference"])
    return (
        f"{line['flops_cut']:6.1%} cut, {line['tokens']:5.1f} tokens, {line['right']:6.1%} right, "
        f"{mean:+5.1f} ({low:+.1f} to {high:+.1f}): {line['point']}"
    )


def curve(vlm: VLM, table: list[dict], final: list[dict], agreed: dict) -> dict:
    """All that tradeoff.json holds."""
    taken = machine(vlm)
    return {
        "machine": f"{taken['device']}, torch {taken['torch']}, {taken['dtype']}",
        "date": datetime.date.today().isoformat(),
        "unpruned": table[0],
        "points": table[1:],
        "final": final,
        "agreement": agreed,
    }


def write(folder: Path, found: dict) -> None:
    """Write the curve beside the weights; `tiny`'s picture and tables, the README's, to assets."""
    write_whole(folder / "tradeoff.json", json.dumps(found, indent=1) + "\n")
    of_readme = folder.resolve() == FOLDER.resolve()
    places = [path if of_readme else folder / path.name for path in (PICTURE, TABLES)]
    write_whole(places[0], picture(found))
    table = [found["unpruned"], *found["points"]]
    write_whole(places[1], tables(found, {cut: at_cut(table, cut) for cut in CUTS}))
