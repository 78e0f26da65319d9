"""The paper's analyses on any model that the engine serves: numbers first, then figures.

To add one: a file here and a line in `ANALYSES`.
"""

from __future__ import annotations

from visipruner.analyses.attention import AttentionMap
from visipruner.analyses.base import Analysis
from visipruner.analyses.heads import ValueOutput
from visipruner.analyses.influence import InfluenceMap
from visipruner.analyses.lens import LogitLens
from visipruner.analyses.sinks import Sinks
from visipruner.analyses.tokens import TokenMap
from visipruner.analyses.words import WordsOnPatches

ANALYSES: dict[str, type[Analysis]] = {
    "influence": InfluenceMap,
    "attention": AttentionMap,
    "tokens": TokenMap,
    "sinks": Sinks,
    "lens": LogitLens,
    "words": WordsOnPatches,
    "heads": ValueOutput,
}
