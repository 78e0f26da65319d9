"""Honest clocks, memory marks and seeds, on a CPU and on a GPU; and the name of the machine."""

from __future__ import annotations

import platform
import time
from contextlib import contextmanager

import torch
import transformers

from visipruner.models import VLM


def machine(vlm: VLM) -> dict:
    """Where and with what something was measured."""
    device = vlm.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor_name()
    return {
        "model": vlm.spec.name,
        "device": name,
        "threads": torch.get_num_threads(),
        "dtype": str(vlm.dtype).removeprefix("torch."),
        "attention": vlm.model.config.get_text_config()._attn_implementation,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def processor_name() -> str:
    """The CPU's own name where the system tells it."""
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":")[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def now(vlm: VLM) -> float:
    """Seconds, when everything asked of the device so far is done."""
    if vlm.device.type == "cuda":
        torch.cuda.synchronize(vlm.device)
    return time.perf_counter()


@contextmanager
def prefill_clock(vlm: VLM):
    """[start, end] of the language model's first pass, from its first layer to its logits."""
    marks: list = []

    def note(*_):
        if len(marks) < 2:
            marks.append(_mark(vlm))

    handles = [
        vlm.model.model.language_model.register_forward_pre_hook(note),
        vlm.model.lm_head.register_forward_hook(note),
    ]
    try:
        yield marks
    finally:
        for handle in handles:
            handle.remove()


def _mark(vlm: VLM):
    """A point in time: an event in the GPU's own stream, so that nothing waits, or the clock."""
    if vlm.device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def milliseconds(start, end) -> float:
    """Between the two marks of `prefill_clock`; on a GPU only after `now`."""
    return start.elapsed_time(end) if hasattr(start, "elapsed_time") else 1000 * (end - start)


@contextmanager
def fixed_seed(vlm: VLM, seed: int):
    """Draws inside the block depend on `seed` alone; outside, nothing is changed."""
    devices = [vlm.device] if vlm.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        yield


def memory_mark(vlm: VLM) -> int | None:
    """Bytes on the GPU from where a peak is measured; None on a CPU, where none is."""
    if vlm.device.type != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats(vlm.device)
    return torch.cuda.memory_allocated(vlm.device)


def memory_peak(vlm: VLM, before: int | None) -> int | None:
    """The highest number of bytes since `memory_mark`, above what was there then."""
    return None if before is None else torch.cuda.max_memory_allocated(vlm.device) - before
