"""Visual-token pruning on stock transformers models: prune, trace, count, compare."""

from visipruner.versions import __version__, untested

try:
    from visipruner.engine import prune
    from visipruner.layout import TokenLayout
    from visipruner.methods import METHODS, FastV, PruningMethod, Random, Schedule, VisiPruner
    from visipruner.trace import PruningTrace
except ImportError as error:
    if line := untested():  # then the name that is missing is in the releases that were tested
        raise ImportError(f"{error}. {line}") from error
    raise

__all__ = [
    "METHODS",
    "FastV",
    "PruningMethod",
    "PruningTrace",
    "Random",
    "Schedule",
    "TokenLayout",
    "VisiPruner",
    "__version__",
    "prune",
]
