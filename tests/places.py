"""Imitated devices: CPU tensors that claim to lie on another device and must not mix.

Test machines rarely have two GPUs. Inside `Places`, every tensor carries the name of a device:
`.to()` and `device=` set it, and `.device` returns it. An operation on tensors of two devices is an
error, as on real GPUs. The CPU computes the numbers, and they are right.
"""

from __future__ import annotations

import collections

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

CPU = torch.device("cpu")
_MOVES = {"to", "cpu", "cuda"}
_FREE = {"__get__", "__set__", "size", "dim", "numel", "is_floating_point", "__len__", "__repr__"}


def place_of(tensor: torch.Tensor) -> torch.device:
    return tensor.__dict__.get("place", CPU)


class Places(TorchFunctionMode):
    """`used` counts the operations on every device."""

    def __init__(self):
        super().__init__()
        self.used = collections.Counter()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if func == torch.Tensor.device.__get__:
            return place_of(args[0])
        if name in _MOVES:
            return self._move(func, name, args, kwargs)
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        # A CPU tensor with one number may meet any device, as on real devices.
        places = {place_of(t) for t in tensors if t.ndim or place_of(t) != CPU}
        if len(places) > 1 and name not in _FREE:
            raise RuntimeError(f"{name}: tensors on {sorted(map(str, places))}")
        place = places.pop() if places else CPU
        if kwargs.get("device") is not None:
            place, kwargs["device"] = torch.device(kwargs["device"]), CPU
        self.used[str(place)] += 1
        return self._tag(func(*args, **kwargs), place)

    def _move(self, func, name, args, kwargs):
        tensor, place = args[0], place_of(args[0])
        options = {"dtype": kwargs.get("dtype"), "copy": kwargs.get("copy", False)}
        for value in (CPU if name == "cpu" else None, *args[1:], kwargs.get("device")):
            if isinstance(value, torch.Tensor):
                place, options["dtype"] = place_of(value), value.dtype
            elif isinstance(value, torch.dtype):
                options["dtype"] = value
            elif isinstance(value, str | torch.device | int) and not isinstance(value, bool):
                place = torch.device(value)
        # A real move makes another tensor. So does this one: the original must keep its device.
        return self._tag(torch.Tensor.to(tensor.view_as(tensor), CPU, **options), place)

    @staticmethod
    def _tag(result, place):
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                leaf.place = place
        return result
