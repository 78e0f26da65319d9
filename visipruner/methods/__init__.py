"""Every pruning method, by name. "none" is the baseline."""

from visipruner.methods.base import PruningMethod
from visipruner.methods.cdpruner import CDPruner
from visipruner.methods.dart import DART
from visipruner.methods.divprune import DivPrune
from visipruner.methods.fastv import FastV
from visipruner.methods.holov import HoloV
from visipruner.methods.pool import Pool
from visipruner.methods.pyramiddrop import PyramidDrop
from visipruner.methods.random import Random
from visipruner.methods.schedule import Schedule
from visipruner.methods.sparsevlm import SparseVLM, SparseVLMPlus
from visipruner.methods.visionzip import VisionZip
from visipruner.methods.visipruner import VisiPruner
from visipruner.methods.vispruner import VisPruner

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
        VisPruner,
        HoloV,
        DivPrune,
        DART,
        Pool,
        CDPruner,
        Random,
        Schedule,
    )
}

__all__ = [
    "DART",
    "METHODS",
    "CDPruner",
    "DivPrune",
    "FastV",
    "HoloV",
    "Pool",
    "PruningMethod",
    "PyramidDrop",
    "Random",
    "Schedule",
    "SparseVLM",
    "SparseVLMPlus",
    "VisPruner",
    "VisiPruner",
    "VisionZip",
]
