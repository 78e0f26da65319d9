"""The table of agreement: how much of what two methods keep is the same, at one budget."""

from __future__ import annotations

import itertools

from visipruner.choice import Side, make, methods_of, parse
from visipruner.evaluation.agreement import chance, overlap
from visipruner.evaluation.interview import ask, questions
from visipruner.levels import nearest_to
from visipruner.methods import METHODS
from visipruner.models.catalogue import VLM
from visipruner.world.drawing import render
from visipruner.world.questions import SKILLS

SHARED = 144  # mean visual tokens per layer: the least that every method can be given
PER_SKILL = 3


def compared(vlm: VLM) -> dict[str, Side]:
    """Every method that keeps patches at the shared budget, as near as it comes."""
    facts, found = vlm.facts(), {}
    for name, kind in METHODS.items():
        if name == "none" or not vlm.family.offers >= kind.needs:
            continue
        few = kind.reachable(facts)
        budget = max(SHARED, kind.least(facts)) if few is None else nearest_to(few, SHARED)
        found[name] = make(parse(f"{name}@{budget:g}"), facts)
    return found


def agreement(vlm: VLM, per_skill: int = PER_SKILL) -> dict:
    """The mean overlap of every pair of methods, and what chance would give.

    Returns:
        "budget", "questions", "sides", "tokens" (mean, per side), "overlap" and "chance" (both
        sides x sides).
    """
    sides = compared(vlm)
    seen: list[dict] = []
    for skill in SKILLS:
        for _, scene, asked in questions("heldout", skill, per_skill):
            prompt = vlm.prepare(render(scene), asked.text)
            features = vlm.encode(prompt, any("tower" in m.needs for m in _all(sides)))
            seen.append({name: ask(vlm, side, prompt, features)[1] for name, side in sides.items()})
    presences = [{name: trace.presence() for name, trace in row.items()} for row in seen]
    tables = {}
    for title, measure in (("overlap", overlap), ("chance", chance)):
        cells = {}
        for first, second in itertools.combinations_with_replacement(sides, 2):
            values = [measure(row[first], row[second]) for row in presences]
            cells[first, second] = cells[second, first] = round(sum(values) / len(values), 4)
        tables[title] = [[cells[a, b] for b in sides] for a in sides]
    tokens = [sum(row[name].mean_tokens for row in seen) / len(seen) for name in sides]
    found = {"budget": SHARED, "questions": len(seen), "sides": list(sides)}
    return {**found, "tokens": [round(mean, 1) for mean in tokens], **tables}


def _all(sides: dict[str, Side]) -> list:
    return [method for side in sides.values() for method in methods_of(side)]
