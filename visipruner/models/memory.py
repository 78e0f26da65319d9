"""How much memory a checkpoint takes and a device has, and what to do when it was not enough."""

from __future__ import annotations

import gc
import traceback
from contextlib import contextmanager
from pathlib import Path

import psutil
import torch

from visipruner.errors import Refused

GIGABYTE = 10**9
CGROUP = Path("/sys/fs/cgroup")  # where Linux tells a container its limits
LARGE = 2 * GIGABYTE  # a checkpoint of this size is nothing to load by the way
# The cache and the activations of one prompt of LLaVA-1.5-13B, with room to spare.
WORKING_ROOM = 2 * GIGABYTE

# Bytes per parameter, in units of the two that checkpoints are stored with. In NF4 the language
# model's linear layers take half a byte, while embeddings, lm_head and vision tower keep two.
_SCALE = {"float32": 2.0, "bfloat16": 1.0, "float16": 1.0, "4-bit": 0.33}


def needed(checkpoint_bytes: int, precision: str) -> int:
    """Bytes that a model takes while it answers, from the size of its 16-bit checkpoint."""
    room = WORKING_ROOM if checkpoint_bytes >= LARGE else 0
    return int(checkpoint_bytes * _SCALE[precision]) + room


def free_on_gpus() -> list[int]:
    """Free bytes of every GPU that torch sees, in its order."""
    return [torch.cuda.mem_get_info(index)[0] for index in range(torch.cuda.device_count())]


def free_on_cpu() -> int:
    """Free bytes of this machine, or of the container that it runs in."""
    free = psutil.virtual_memory().available
    try:
        limit, current = (int((CGROUP / f"memory.{n}").read_text()) for n in ("max", "current"))
        # Files that were read lie in memory until somebody needs the room: that is free too.
        parts = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
        free = min(free, limit - current + int(parts.get("inactive_file", 0)))
    except (OSError, ValueError):  # no container, or one without a limit ("max")
        pass
    return free


def gigabytes(number: int) -> str:
    return f"{number / GIGABYTE:.1f} GB"


def release():
    """Give back what nobody refers to any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """Also on a CPU, where torch says it with a plain RuntimeError."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    )


@contextmanager
def freeing():
    """Turns running out of memory into freed memory and a sentence."""
    try:
        yield
    except Exception as error:
        if is_out_of_memory(error):
            raise ran_out(error) from None
        raise


def ran_out(error: BaseException) -> Refused:
    """Free what the failed run held, and the sentence to show in its place."""
    # The frames of the failed run hold its tensors as long as the error lives.
    traceback.clear_frames(error.__traceback__)
    error.__traceback__ = None
    release()
    return Refused(
        "The device ran out of memory, so this run was given up and its memory freed; "
        "a shorter answer, 4-bit precision or a smaller model takes less."
    )
