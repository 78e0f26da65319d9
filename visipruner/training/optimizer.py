"""Muon for the matrices inside the layers, AdamW for everything else.

Muon (Jordan et al., 2024) steps along the orthogonal matrix nearest to the momentum, so that rare
directions learn as fast as common ones. torch.optim.Muon computes in bfloat16, which is thirty
times slower than float32 on a CPU without bfloat16 units, so this module computes in float32.
"""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import nn

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # Newton-Schulz, from Muon's reference code
SMALL = 0.05  # of the learning rate, for the projector's first matrix: its inputs are large
UPDATE_SIZE = 0.8  # root mean square of a step over the learning rate; AdamW's is 0.2


def orthogonal(matrices: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """Roughly the nearest (semi-)orthogonal matrices.  # (matrix, row, column), likewise"""
    a, b, c = COEFFICIENTS
    is_wide = matrices.shape[-2] <= matrices.shape[-1]
    x = matrices if is_wide else matrices.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x if is_wide else x.mT


class Muon(torch.optim.Optimizer):
    def __init__(self, parameters, lr: float, momentum: float = 0.95, weight_decay: float = 0.01):
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            by_shape = defaultdict(
                list
            )  # matrices of one shape go together: a GPU waits for launches
            for weight in group["params"]:
                if weight.grad is not None:
                    by_shape[weight.shape].append(weight)
            for shape, weights in by_shape.items():
                ahead = torch.stack([self._ahead(weight, group["momentum"]) for weight in weights])
                size = UPDATE_SIZE * max(shape) ** 0.5
                torch._foreach_mul_(weights, 1 - group["lr"] * group["decay"])
                steps = orthogonal(ahead).unbind()
                torch._foreach_add_(weights, steps, alpha=-group["lr"] * size)

    def _ahead(self, weight: torch.Tensor, momentum: float) -> torch.Tensor:
        """Nesterov's momentum: the gradient, drawn to the running mean that it has just moved."""
        state = self.state[weight]
        if not state:
            state["momentum"] = torch.zeros_like(weight)
        state["momentum"].lerp_(weight.grad, 1 - momentum)
        return weight.grad.lerp(state["momentum"], momentum)


def optimizers(parts: list[nn.Module], lr: float) -> list[torch.optim.Optimizer]:
    """The two optimizers for every trainable parameter of the parts."""
    inner, outer, small = [], [], []
    for part in parts:
        for name, weight in part.named_parameters():
            if weight.requires_grad:
                is_inner = weight.ndim == 2 and ".layers." in f".{name}"
                is_small = name.endswith("linear_1.weight")
                (inner if is_inner else small if is_small else outer).append(weight)
    groups = [{"params": outer, "scale": 1.0}, {"params": small, "scale": SMALL}]
    found = [torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98), weight_decay=0.0)]
    return [Muon(inner, lr=lr), *found] if inner else found
