"""Seconds, quartiles and peaks. A sample is one run between two synchronisations."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable

import torch


def seconds(run: Callable[[], object], device: str) -> float:
    """One sample."""
    synchronise(device)
    start = time.perf_counter()
    run()
    synchronise(device)
    return time.perf_counter() - start


def samples(run: Callable[[], object], device: str, repeats: int) -> list[float]:
    """`repeats` samples after one uncounted run."""
    run()
    return [seconds(run, device) for _ in range(repeats)]


def quartiles(values: list[float]) -> dict[str, float] | None:
    """Median and the two quartiles; None without values."""
    if not values:
        return None
    if len(values) < 2:
        return {"q1": values[0], "median": values[0], "q3": values[0]}
    q1, median, q3 = statistics.quantiles(values, n=4, method="inclusive")
    return {"q1": q1, "median": median, "q3": q3}


def ratio(above: list[float], below: list[float]) -> float | None:
    """The ratio of medians; None if one was not measured."""
    if not above or not below:
        return None
    return quartiles(above)["median"] / quartiles(below)["median"]


def peak_bytes(run: Callable[[], object], device: str) -> int:
    """Peak bytes of tensors during `run`, above the bytes before it.

    On a CPU from the profiler's record of every allocation, on a GPU from the allocator.
    """
    gc.collect()
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        return torch.cuda.max_memory_allocated(device) - before
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        run()
    held = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak


def synchronise(device: str):
    """Wait until the device is idle."""
    if device != "cpu":
        torch.cuda.synchronize(device)  # the given device: other threads have another current one
