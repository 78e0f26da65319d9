"""A CUDA graph's rules on a CPU: fixed addresses, no host reads, reused memory.

`TapeRecorder` replaces `bench.replay.Recorder`. It records a function's torch operators once. A
replay runs the same operators on the same tensors and writes the results to the same memory.
Graphs of one pool overwrite each other's scratch memory, so a replay also spoils what younger
recordings made. The recorder refuses what would wait for the host or come from it, as far as a CPU
can tell: reading numbers, shapes that depend on numbers, tensors from Python lists.
"""

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten
FORBIDDEN = {
    aten._local_scalar_dense.default,
    aten.equal.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten._unique2.default,
    aten.lift_fresh.default,
}
READS = {"tolist", "cpu", "numpy", "__array__"}  # reads that no operator shows


class _NoReads(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        if getattr(func, "__name__", "") in READS:
            raise _refusal(func)
        return func(*args, **(kwargs or {}))


def _refusal(what) -> RuntimeError:
    return RuntimeError(f"{what} is not permitted while a stream is capturing.")


class _Tape(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.steps = []  # (operator, arguments, named arguments, its results)
        self.made = []  # tensors with memory of their own

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in FORBIDDEN or (func == aten.index.Tensor and _by_bools(args[1])):
            raise _refusal(func)
        results = func(*args, **kwargs)
        given = {_memory(t) for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        fresh = [t for t in _tensors(results) if _memory(t) not in given]
        self.steps.append((func, args, kwargs, fresh))
        self.made += fresh
        return results

    def play(self):
        for func, args, kwargs, fresh in self.steps:
            results = func(*args, **kwargs)
            if fresh:  # views and in-place operators are already done
                given = {_memory(t) for t in fresh}
                again = [t for t in _tensors(results) if _memory(t) not in given]
                for place, result in zip(fresh, again, strict=True):
                    place.copy_(result)


class TapeRecorder:
    """`Recorder` for a CPU."""

    def __init__(self, device):
        self.tapes: list[_Tape] = []

    def record(self, function):
        with torch.inference_mode(False), torch.no_grad():
            for _ in range(2):
                function()
            tape = _Tape()
            with _NoReads(), tape:
                output = function()
        number = len(self.tapes)
        self.tapes.append(tape)
        for tensor in tape.made:  # recording computes nothing
            _spoil(tensor)

        def replay():
            tape.play()
            for younger in self.tapes[number + 1 :]:
                for tensor in younger.made:
                    _spoil(tensor)

        return replay, output


def _by_bools(indices) -> bool:
    return any(index is not None and index.dtype == torch.bool for index in indices)


def _tensors(results) -> list[torch.Tensor]:
    return [t for t in tree_leaves(results) if isinstance(t, torch.Tensor) and t.numel()]


def _memory(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _spoil(tensor: torch.Tensor):
    tensor.fill_(float("nan") if tensor.is_floating_point() else 77)
