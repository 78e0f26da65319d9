"""Every pruning method, by name. "none" is the baseline."""

from visipruner.methods.base import PruningMethod
from visipruner.methods.cdpruner import CDPruner
from visipruner.methods.fastv import FastV
from visipruner.methods.pyramiddrop import PyramidDrop
from visipruner.methods.random import Random
from visipruner.methods.schedule import Schedule
from visipruner.methods.sparsevlm import SparseVLM, SparseVLMPlus
from visipruner.methods.visionzip import VisionZip
from visipruner.methods.visipruner import VisiPruner

METHODS: dict[str, type[PruningMethod]] = {
    method.name: method
    for method in (
        PruningMethod,
        VisiPruner,
        FastV,
        PyramidDrop,
        SparseVLM,
        SparseVLMPlus,
        VisionZip,
        CDPruner,
        Random,
        Schedule,
    )
}

__all__ = [
    "METHODS",
    "CDPruner",
    "FastV",
    "PruningMethod",
    "PyramidDrop",
    "Random",
    "Schedule",
    "SparseVLM",
    "SparseVLMPlus",
    "VisiPruner",
    "VisionZip",
]
