"""Muon for the matrices inside the layers, AdamW for everything else.

Muon (Jordan et al., 2024) steps along the orthogonal matrix nearest to the momentum, so that rare
directions learn as fast as common ones. torch.optim.Muon computes in bfloat16, which is thirty
times slower than float32 on a CPU without bfloat16 units, so this module computes in float32.
"""

from __future__ import annotations

import torch
from torch import nn

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # Newton-Schulz, from Muon's reference code
SMALL = 0.05  # of the learning rate, for the projector's first matrix: its inputs are large
UPDATE_SIZE = 0.8  # root mean square of a step over the learning rate; AdamW's is 0.2


def orthogonal(matrix: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """Roughly the nearest (semi-)orthogonal matrix."""
    a, b, c = COEFFICIENTS
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    x = wide / (wide.norm() + 1e-7)
    for _ in range(steps):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x if wide is matrix else x.T


class Muon(torch.optim.Optimizer):
    def __init__(self, parameters, lr: float, momentum: float = 0.95, weight_decay: float = 0.01):
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    state["momentum"] = torch.zeros_like(weight)
                state["momentum"].lerp_(weight.grad, 1 - group["momentum"])
                ahead = weight.grad.lerp(state["momentum"], group["momentum"])
                size = UPDATE_SIZE * max(weight.shape) ** 0.5
                weight.mul_(1 - group["lr"] * group["decay"])
                weight.add_(orthogonal(ahead), alpha=-group["lr"] * size)


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
