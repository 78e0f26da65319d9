"""A curve with invented answers, written as `python -m visipruner tradeoff` writes it."""

from __future__ import annotations

import json
import random
from pathlib import Path

from visipruner.evaluation import tradeoff
from visipruner.evaluation.evaluate import UNPRUNED
from visipruner.levels import Facts
from visipruner.methods import PruningMethod, VisiPruner
from visipruner.world.questions import SKILLS

FACTS = Facts(576, 12, grids=((24, 24),))
WISHES = (
    "fastv@288", "fastv@96", "random@288", "random@96", "sparsevlm_plus@288", "pool@144", "pool@64",
    "places kept, pool@64", "visionzip@288", "visionzip@64", "visionzip+visipruner@64",
    "pool+visipruner@64", "by the question, visipruner:balanced",
)  # fmt: skip


def sides() -> dict:
    """Wish -> method or stack; with a VisiPruner whose settings are long fractions."""
    own = VisiPruner(shallow_layers=4, tokens_threshold=0.00123456789, stages=("middle", "deep"))
    known = {UNPRUNED: PruningMethod(), "visipruner:balanced": own}
    return known | tradeoff.chosen_of(known, WISHES, FACTS)


def body(per_skill: int = 4) -> dict:
    """What the file holds."""
    rng, rows, known = random.Random(1), [], sides()
    for place, wish in enumerate(known):
        for number in range(per_skill):
            for skill in SKILLS:
                row = {"column": wish, "set": "heldout", "skill": skill, "number": number}
                row |= {"score": float(rng.random() < 0.9 - place / 40)}
                rows.append(row | {"flops": 1000 - 50 * place, "tokens": [576 - 40 * place] * 12})
    table = tradeoff.points(known, rows)
    final = [table[0], {**table[1], "right": 0.8, "low": 0.75, "high": 0.85, "questions": 3900}]
    return {
        "machine": "an invented machine",
        "date": "2026-01-02",
        "unpruned": table[0],
        "points": table[1:],
        "final": final,
        "agreement": {},
    }


def written(folder: Path) -> Path:
    path = folder / "tradeoff.json"
    path.write_text(json.dumps(body()))
    return path
