"""Clocks, memory peaks and seeds, on a CPU and on a GPU; and the name of the machine."""

from __future__ import annotations

import platform
import time
from contextlib import contextmanager
from datetime import datetime

import torch
import transformers

from visipruner.models.catalogue import VLM
from visipruner.stock import attention_backend, find_decoder


def machine(vlm: VLM) -> dict:
    """The machine and the versions of a measurement."""
    device = vlm.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor_name()
    return {
        "model": vlm.spec.name,
        "device": name,
        "threads": torch.get_num_threads(),
        "dtype": vlm.precision,
        "attention": attention_backend(find_decoder(vlm.model)),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def moment() -> str:
    """The date and time with the zone, in ISO format."""
    return datetime.now().astimezone().isoformat(timespec="seconds")


def processor_name() -> str:
    """The CPU's model name, if the system tells it."""
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":")[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def now(vlm: VLM) -> float:
    """Wait until the device is idle; the time in seconds."""
    for device in _gpus(vlm):
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _gpus(vlm: VLM) -> list[torch.device]:
    return [device for device in vlm.devices if device.type == "cuda"]


@contextmanager
def prefill_clock(vlm: VLM):
    """[start, end] of the language model's first pass, from layer 0 to its logits."""
    marks: list = []

    def note(*_):
        if len(marks) < 2:
            marks.append(_mark(vlm))

    handles = [
        vlm.parts.decoder.register_forward_pre_hook(note),
        vlm.parts.lm_head.register_forward_hook(note),
    ]
    try:
        yield marks
    finally:
        for handle in handles:
            handle.remove()


def _mark(vlm: VLM):
    """A point in time: an event in the GPU's stream, which makes nothing wait, or the clock."""
    gpus = _gpus(vlm)
    if len(gpus) != 1:  # events of two GPUs cannot be compared
        return now(vlm)
    event = torch.cuda.Event(enable_timing=True)
    event.record(torch.cuda.current_stream(gpus[0]))  # not always the first GPU
    return event


def milliseconds(start, end) -> float:
    """The time between the marks of `prefill_clock`; on a GPU, call `now` first."""
    return start.elapsed_time(end) if hasattr(start, "elapsed_time") else 1000 * (end - start)


@contextmanager
def fixed_seed(vlm: VLM, seed: int):
    """Random draws inside depend on `seed` alone; draws outside are unchanged."""
    with torch.random.fork_rng(_gpus(vlm)):
        torch.manual_seed(seed)
        yield


def memory_mark(vlm: VLM) -> int | None:
    """Start a peak measurement: bytes on the GPUs now; None on a CPU, which is not measured."""
    if not (gpus := _gpus(vlm)):
        return None
    for device in gpus:
        torch.cuda.reset_peak_memory_stats(device)
    return sum(torch.cuda.memory_allocated(device) for device in gpus)


def memory_peak(vlm: VLM, before: int | None) -> int | None:
    """Peak bytes on all GPUs since `memory_mark`, above the bytes at the mark."""
    if before is None:
        return None
    return sum(torch.cuda.max_memory_allocated(device) for device in _gpus(vlm)) - before
