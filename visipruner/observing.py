"""The observers of a run: they read what methods read, in the same run, and change nothing."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace

import torch
from torch import Tensor

from visipruner.attention import Watch
from visipruner.trace import LayerRecord
from visipruner.view import LayerInput, LayerView


class Observer:
    """Watches one run of `prune(..., observers=[...])`; many observers share it.

    An observer may read what a method may read, and changes nothing.
    """

    def queries(self, view):
        """Before a layer: the rows whose attention it will read, as a method's `queries`."""
        return None

    def observe(self, view):
        """After a layer, while its tensors are valid: copy what is to be kept."""
        raise NotImplementedError


@dataclass
class _Seat:
    """One observer, with its memory."""

    observer: Observer
    memory: SimpleNamespace
    rows: Tensor | None = field(default=None)  # whose attention it reads in the running layer


class Audience:
    """All observers of one run.

    Their views hold a copy of the layer's record. So their FLOPs, tests and labels do not enter the
    trace, and all of them share one influence test.
    """

    def __init__(self, observers: Sequence[Observer], num_visual: int):
        self._seats = [
            _Seat(observer, SimpleNamespace(entered=num_visual, cuts=[])) for observer in observers
        ]

    def __bool__(self) -> bool:
        return bool(self._seats)

    def queries(self, fields: Callable, index: int, record: LayerRecord) -> list[Tensor | None]:
        """Before a layer: the rows whose attention each observer reads.

        Args:
            fields: (owner of a memory, layer, record) -> the fields of a `LayerInput`.
        """
        record = copy.copy(record)
        for seat in self._seats:
            seat.rows = seat.observer.queries(LayerInput(*fields(seat, index, record)))
        return [seat.rows for seat in self._seats]

    def observe(self, fields: Callable, index: int, record: LayerRecord, watch: Watch, **given):
        """After a layer, when the methods have decided and nothing is cut yet."""
        record = copy.copy(record)
        for seat in self._seats:
            noted = watch.only(seat.rows)
            seat.observer.observe(LayerView(*fields(seat, index, record), watch=noted, **given))


def all_rows(wanted: Sequence[Tensor | None]) -> Tensor | None:
    """(n,) ascending: every row that some reader asked for; None: there is none."""
    wanted = [rows for rows in wanted if rows is not None]
    return torch.cat(wanted).unique() if wanted else None
