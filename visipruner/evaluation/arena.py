"""Which methods and stacks the page's arena runs."""

from __future__ import annotations

from visipruner.evaluation.tradeoff import STACKS
from visipruner.methods import METHODS, PruningMethod

FIRST = ("visipruner", "fastv", "sparsevlm_plus", "divprune+visipruner")  # chosen on a new page


def every() -> list[str]:
    """Every method but the baseline, and the stacks of the trade-off curve."""
    single = [name for name in METHODS if name != PruningMethod.name]
    return [*single, *STACKS]
