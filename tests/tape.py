"""A CUDA graph's rules on a CPU: fixed addresses, no questions to the host, memory used again.

`TapeRecorder` stands in for `visipruner.graphs.Recorder`. What a function asks of torch is written
down once; a replay runs the same operators on the same tensors and puts results where the first
ones lay. As the graphs of one pool write over each other's scratch memory, a replay spoils whatever
younger recordings made. What waits for the host, or comes from it, is refused.
"""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten
# Reading a number, a shape that depends on numbers, and numbers that come from a Python list.
FORBIDDEN = {
    aten._local_scalar_dense.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten.lift_fresh.default,
}


class _Tape(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.steps = []  # (operator, arguments, named arguments, its results)
        self.made = []  # tensors with memory of their own

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in FORBIDDEN:
            raise RuntimeError(f"{func} is not permitted while a stream is capturing.")
        results = func(*args, **kwargs)
        given = {_memory(t) for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        fresh = [t for t in _tensors(results) if _memory(t) not in given]
        self.steps.append((func, args, kwargs, fresh))
        self.made += fresh
        return results

    def play(self):
        for func, args, kwargs, fresh in self.steps:
            results = func(*args, **kwargs)
            if fresh:  # views and in-place operators have done their work already
                given = {_memory(t) for t in fresh}
                again = [t for t in _tensors(results) if _memory(t) not in given]
                for place, result in zip(fresh, again, strict=True):
                    place.copy_(result)


class TapeRecorder:
    """As `Recorder`, for a CPU."""

    def __init__(self, device):
        self.tapes: list[_Tape] = []
        self.replays = 0

    def record(self, function):
        with torch.inference_mode(False), torch.no_grad():
            for _ in range(2):
                function()
            tape = _Tape()
            with tape:
                output = function()
        number = len(self.tapes)
        self.tapes.append(tape)
        for tensor in tape.made:  # recording computes nothing
            _spoil(tensor)

        def replay():
            self.replays += 1
            tape.play()
            for younger in self.tapes[number + 1 :]:
                for tensor in younger.made:
                    _spoil(tensor)

        return replay, output


def _tensors(results) -> list[torch.Tensor]:
    return [t for t in tree_leaves(results) if isinstance(t, torch.Tensor) and t.numel()]


def _memory(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _spoil(tensor: torch.Tensor):
    tensor.fill_(float("nan") if tensor.is_floating_point() else 77)
