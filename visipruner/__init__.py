"""Visual-token pruning on stock transformers models: prune, trace, count, compare."""

from visipruner import methods
from visipruner.engine import prune
from visipruner.errors import Refused
from visipruner.layout import TokenLayout
from visipruner.methods import *  # noqa: F403 - every method, by the list of that room
from visipruner.trace import PruningTrace

__all__ = ["PruningTrace", "Refused", "TokenLayout", "prune", *methods.__all__]
