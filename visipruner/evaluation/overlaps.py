"""The table of agreement: how much of what two methods keep is the same, at one budget."""

from __future__ import annotations

import itertools
import statistics

from visipruner.choice import Side, make, parse
from visipruner.evaluation.agreement import chance, overlap
from visipruner.evaluation.interview import ask, questions
from visipruner.evaluation.items import kinds_in
from visipruner.methods import METHODS
from visipruner.methods.trained import least_of
from visipruner.models.catalogue import VLM
from visipruner.tower import needs_tower
from visipruner.world.drawing import render
from visipruner.world.questions import SKILLS

# Of the visual tokens, as a mean per layer. With less, methods inside the language model keep all
# in the first layers and nothing later.
SHARE = 3 / 8
PER_SKILL = 3


def compared(vlm: VLM) -> dict[str, Side]:
    """Every method that the model can serve, at the shared budget or the nearest that it can."""
    facts, found = vlm.facts(), {}
    for name, kind in METHODS.items():
        if name != "none" and not vlm.serves(kind):
            budget = max(SHARE * facts.most, least_of(kind, facts))
            found[name] = make(parse(f"{name}@{budget!r}"), facts)
    return found


def agreement(vlm: VLM, per_skill: int = PER_SKILL) -> dict:
    """The mean overlap of every pair of methods, and what chance would give.

    Returns:
        "budget", "questions", "sides", "tokens" (mean, per side), "overlap" and "chance" (both
        sides x sides).
    """
    sides, traces = compared(vlm), []
    noted = needs_tower(kinds_in(sides))
    for skill in SKILLS:
        for _, scene, asked in questions("heldout", skill, per_skill):
            prompt = vlm.prepare(render(scene), asked.text)
            features = vlm.encode(prompt, noted)
            traces.append(
                {name: ask(vlm, side, prompt, features)[1] for name, side in sides.items()}
            )
    presences = [{name: trace.presence() for name, trace in row.items()} for row in traces]
    tables = {}
    for title, measure in (("overlap", overlap), ("chance", chance)):
        cells = {}
        for first, second in itertools.combinations_with_replacement(sides, 2):
            values = [measure(row[first], row[second]) for row in presences]
            cells[first, second] = cells[second, first] = round(statistics.mean(values), 4)
        tables[title] = [[cells[a, b] for b in sides] for a in sides]
    tokens = [statistics.mean(row[name].mean_tokens for row in traces) for name in sides]
    found = {"budget": SHARE * vlm.facts().most, "questions": len(traces)}
    found |= {"sides": list(sides), "tokens": [round(mean, 1) for mean in tokens]}
    return found | tables
