"""Visual-token pruning on stock transformers models: prune, trace, count, compare."""

from visipruner.engine import prune
from visipruner.layout import TokenLayout
from visipruner.methods import METHODS, FastV, PruningMethod, Random, Schedule, VisiPruner
from visipruner.trace import PruningTrace

__all__ = [
    "METHODS",
    "FastV",
    "PruningMethod",
    "PruningTrace",
    "Random",
    "Schedule",
    "TokenLayout",
    "VisiPruner",
    "prune",
]
