"""How much memory a checkpoint needs and a device has, and what to do when memory runs out."""

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
# Sizes of checkpoints, in 16 bits.
SMALL = GIGABYTE // 5  # below, such as the bundled model, nothing is gained by 16 bits
LARGE = 2 * GIGABYTE  # from this size on, only one is in memory
ON_REQUEST = 8 * GIGABYTE  # from this size on, a CPU takes minutes for an answer
# More than the cache and the activations of one prompt of LLaVA-1.5-13B, and of SmolVLM-256M.
WORKING_ROOM, LESS_ROOM = 2 * GIGABYTE, GIGABYTE

# Bytes per parameter, divided by the checkpoint's two. In NF4 the language model's linear layers
# take half a byte; embeddings, lm_head and vision tower keep two.
_SCALE = {"float32": 2.0, "bfloat16": 1.0, "float16": 1.0, "4-bit": 0.33}


def needed(checkpoint_bytes: int, precision: str) -> int:
    """Bytes that a model needs while it answers, from the size of its 16-bit checkpoint."""
    room = WORKING_ROOM if checkpoint_bytes >= LARGE else LESS_ROOM
    if checkpoint_bytes < SMALL:
        room = 0
    return int(checkpoint_bytes * _SCALE[precision]) + room


def free_on_gpus() -> list[int]:
    """Free bytes of every GPU that torch sees, in its order."""
    return [torch.cuda.mem_get_info(index)[0] for index in range(torch.cuda.device_count())]


def free_on_cpu() -> int:
    """Free bytes of this machine, or of the container that it runs in."""
    free = psutil.virtual_memory().available
    try:
        limit, current = (
            int((CGROUP / f"memory.{n}").read_text("utf-8")) for n in ("max", "current")
        )
        # The page cache is given up when a process needs memory, so it counts as free.
        parts = dict(
            line.split() for line in (CGROUP / "memory.stat").read_text("utf-8").splitlines()
        )
        free = min(free, limit - current + int(parts.get("inactive_file", 0)))
    except (OSError, ValueError):  # no container, or a container without a limit ("max")
        pass
    return free


def gigabytes(number: int) -> str:
    return f"{number / GIGABYTE:.1f} GB"


def release():
    """Free memory that is no longer referenced."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """Did memory run out? On a CPU, torch raises a plain RuntimeError for it."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    )


@contextmanager
def freeing():
    """If memory runs out inside, free it and raise `Refused`."""
    try:
        yield
    except Exception as error:
        if is_out_of_memory(error):
            raise ran_out(error) from None
        raise


def ran_out(error: BaseException) -> Refused:
    """Free what the failed run held, and return the error to raise instead."""
    # The error keeps the failed run's frames alive, and they hold its tensors.
    traceback.clear_frames(error.__traceback__)
    error.__traceback__ = None
    release()
    return Refused(
        "The device ran out of memory, so this run was given up and its memory freed; "
        "a shorter answer, 4-bit precision or a smaller model takes less."
    )
