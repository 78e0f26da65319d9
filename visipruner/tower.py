"""What the vision tower computes in the layer that the projector reads, noted while it runs."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from visipruner.attention import Watch, attention_row
from visipruner.errors import Refused
from visipruner.stock import tower_layers


@dataclass(frozen=True)
class Tower:
    """One picture in the tower's layer whose output the projector reads."""

    hidden: Tensor  # (tokens, width): that layer's output; the class token first
    cls_attention: Tensor  # (heads, patches) float32: softmax weights of the class token
    keys: Tensor  # (heads, tokens, head width): keys with bias, before scaling
    flops: int  # what the class token's weights cost


class TowerWatch:
    """Hooks on one layer of the vision tower.

    Args:
        model: a LLaVA. Its tower runs at most once between `install` and `remove`.
    """

    def __init__(self, model: nn.Module):
        self.model, self.handles, self.tower = model, [], None
        self.watch: Watch | None = None

    def install(self):
        """Hook the layer that the projector reads.

        Raises:
            Refused: the model has no vision tower with a class token, or reads several layers.
        """
        layers, name = tower_layers(self.model), type(self.model).__name__
        if not layers:
            raise Refused(f"{name} has no vision tower that can be watched.")
        config = self.model.config
        chosen = config.vision_feature_layer
        if not isinstance(chosen, int) or chosen % (len(layers) + 1) == 0:
            raise Refused(f"{name} reads several layers of its vision tower, not one.")
        if not hasattr(config.vision_config, "projection_dim"):  # CLIP's towers have one
            raise Refused(f"{name}'s vision tower has no class token.")
        layer = layers[chosen % (len(layers) + 1) - 1]
        self.handles = [
            layer.self_attn.register_forward_pre_hook(self._before, with_kwargs=True),
            layer.register_forward_hook(self._after),
        ]

    def remove(self):
        for handle in self.handles:
            handle.remove()
        self.handles = []
        if self.watch is not None:
            self.watch.end()

    def _before(self, attention, args, kwargs):
        states = args[0] if args else kwargs["hidden_states"]
        first = torch.zeros(1, dtype=torch.long, device=states.device)
        self.watch = Watch(attention, last=first, keep_key=True)
        return args, {**kwargs, "attention_watch": self.watch}

    def _after(self, _layer, _args, output):
        hidden = output[0] if isinstance(output, tuple) else output
        if hidden.shape[0] != 1:
            raise Refused("Methods that look into the vision tower need exactly one picture.")
        watch = self.watch
        weights = attention_row(watch.query, watch.scaling, watch.key)
        flops = 2 * weights.numel() * watch.key.shape[-1]
        self.tower = Tower(hidden[0], weights[:, 1:], watch.key[0], flops)


@contextmanager
def noting_tower(model: nn.Module):
    """Watch the tower of a model within the block; the watch's `tower` then holds what it noted."""
    watch = TowerWatch(model)
    try:
        watch.install()
        yield watch
    finally:
        watch.remove()


def needs_tower(methods: Iterable) -> bool:
    """Whether any of these methods looks into the vision tower."""
    return any("tower" in method.needs for method in methods)
