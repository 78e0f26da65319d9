"""Clocks around what methods are asked, without classes of their own."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable
from functools import partial

from visipruner.bench.timing import synchronise
from visipruner.choice import Side, methods_of

MOMENTS = ("encode", "attend", "queries", "select")  # what methods are asked between layers


class Spent:
    """Adds up the seconds between starts and stops."""

    def __init__(self, device: str):
        self.device, self.seconds = device, 0.0

    def start(self):
        synchronise(self.device)
        self.started = time.perf_counter()

    def stop(self):
        synchronise(self.device)
        self.seconds += time.perf_counter() - self.started


def around(side: Side, moments: Iterable[str], call: Callable) -> Side:
    """Copies of a side's methods that are asked through `call(moment, view)`.

    A copy keeps its class, name and settings; a moment calls the original method's other moments.
    """
    return tuple(_around(method, moments, call) for method in methods_of(side))


def _around(method, moments: Iterable[str], call: Callable):
    twin = copy.copy(method)
    for name in moments:
        object.__setattr__(twin, name, partial(call, getattr(method, name)))  # it is frozen
    return twin


def clocked(side: Side, moments: Iterable[str], spent: Spent) -> Side:
    """The same side; the seconds of these moments are added to `spent`."""

    def call(moment, view):
        spent.start()
        try:
            return moment(view)
        finally:
            spent.stop()

    return around(side, moments, call)


def noting_plans(side: Side, plans: dict) -> Side:
    """The same side, which also stores its attention plans by layer in `plans`."""

    def call(moment, view):
        plan = moment(view)
        if plan is not None:
            plans[view.layer] = plan
        return plan

    return around(side, ("attend",), call)
