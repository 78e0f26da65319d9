"""Visual-token pruning on stock transformers models: prune, trace, count, compare."""

from visipruner.versions import __version__, missing, untested

try:
    from visipruner import methods
    from visipruner.engine import prune
    from visipruner.errors import Refused
    from visipruner.layout import TokenLayout
    from visipruner.methods import *  # noqa: F403 - every method in its __all__
    from visipruner.trace import PruningTrace
except ImportError as error:
    if line := missing() or untested():  # the tested releases have the missing name
        raise ImportError(f"{error}. {line}") from error
    raise

__all__ = ["PruningTrace", "Refused", "TokenLayout", "__version__", "prune", *methods.__all__]
