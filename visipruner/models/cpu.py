"""In which precision a model runs on this processor, and why, in words."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path

import torch

from visipruner.models import memory

CPUINFO = Path("/proc/cpuinfo")
# Instructions that multiply in bfloat16, as torch and Linux name them. Without them torch imitates
# bfloat16, slower than float32.
UNITS = {"amx_bf16": "AMX", "avx512_bf16": "AVX-512", "arm_bf16": "Arm", "bf16": "Arm"}


@cache
def has_bfloat16() -> tuple[bool, str]:
    """Does this processor multiply in bfloat16? With the reason, as the end of a sentence."""
    found = [UNITS[name] for name in UNITS if name in capabilities()]
    if found:
        return True, f"this processor has instructions for it ({found[0]})"
    return False, "this processor is not known to multiply in bfloat16"


def capabilities() -> set[str]:
    """The processor's instruction sets by the names of torch, and of Linux."""
    asked = getattr(torch.cpu, "get_capabilities", None)  # newer than the oldest torch here
    found = {name for name, there in asked().items() if there is True} if asked else set()
    try:
        lines = CPUINFO.read_text("utf-8", "replace").splitlines()
    except OSError:  # not Linux
        return found
    flags = (line for line in lines if line.lower().startswith(("flags", "features")))
    return found | set(next(flags, "").lower().partition(":")[2].split())


def name() -> str:
    """The processor's name."""
    try:
        lines = CPUINFO.read_text("utf-8", "replace").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def usual_precision(size: int, free: int) -> tuple[str, str]:
    """(precision, why) of a model that is loaded without a wish.

    Args:
        size: bytes of the checkpoint in 16 bits per number.
        free: bytes of main memory.
    """
    if size < memory.SMALL:
        return "float32", "it is small"
    native, why = has_bfloat16()
    if native:
        return "bfloat16", why
    if memory.needed(size, "bfloat16") <= free < memory.needed(size, "float32"):
        return "bfloat16", f"slowly: {why}, but float32 does not fit into the memory"
    return "float32", why
