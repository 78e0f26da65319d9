"""Notes what the vision tower computes in the layer that the projector reads."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from visipruner.attention import Watch, attention_row
from visipruner.errors import Refused
from visipruner.stock import projector_of, tower_layers


@dataclass(frozen=True)
class Tower:
    """One picture's values in the tower's layer whose output the projector reads."""

    hidden: Tensor  # (tokens, width): that layer's output; the class token first
    cls_attention: Tensor  # (heads, patches) float32: softmax weights of the class token
    keys: Tensor  # (heads, tokens, head width): keys with bias, before scaling
    flops: int  # cost of the class token's weights
    projector: nn.Module | None = None  # from features to the language model's embeddings


@dataclass(frozen=True)
class Clip:
    """CLIP's embeddings of one picture and of what is asked, as its two projections give them.

    LLaVA has CLIP's vision tower but neither its text tower nor the projections, so the caller
    computes them with a CLIP of its own.
    """

    image: Tensor  # (patches, width)
    text: Tensor  # (texts, width)
    flops: int = 0  # cost of both, counted as the method's own


class TowerWatch:
    """Hooks on one layer of a vision tower, which runs at most once while they are installed.

    Args:
        layer: the layer whose output the projector reads; its first token is the class token.
        projector: turns the tower's features into embeddings.
    """

    def __init__(self, layer: nn.Module, projector: nn.Module):
        self.layer, self.projector = layer, projector
        self.handles, self.tower = [], None
        self.watch: Watch | None = None

    @classmethod
    def on(cls, model: nn.Module) -> TowerWatch:
        """A watch on a model whose parts and settings are named as in transformers' LLaVAs.

        Raises:
            Refused: the model has no vision tower with a class token, or reads several layers.
        """
        layers, name = tower_layers(model), type(model).__name__
        if not layers:
            raise Refused(f"{name} has no vision tower that can be watched.")
        config = model.config
        chosen = config.vision_feature_layer
        if not isinstance(chosen, int) or chosen % (len(layers) + 1) == 0:
            raise Refused(f"{name} reads several layers of its vision tower, not one.")
        if not hasattr(config.vision_config, "projection_dim"):  # CLIP's towers have one
            raise Refused(f"{name}'s vision tower has no class token.")
        return cls(layers[chosen % (len(layers) + 1) - 1], projector_of(model))

    def install(self):
        self.handles = [
            self.layer.self_attn.register_forward_pre_hook(self._before, with_kwargs=True),
            self.layer.register_forward_hook(self._after),
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
        self.tower = Tower(hidden[0], weights[:, 1:], watch.key[0], flops, self.projector)


@contextmanager
def noting(watch: TowerWatch):
    """Watch a tower inside the block; the watch's `tower` then holds the result."""
    try:
        watch.install()
        yield watch
    finally:
        watch.remove()


def needs_tower(methods: Iterable) -> bool:
    """Does any of these methods read the vision tower?"""
    return any("tower" in method.needs for method in methods)


def needs_clip(methods: Iterable) -> bool:
    """Does any of these methods read CLIP's embeddings?"""
    return any("clip_text" in method.needs for method in methods)


def check_clip(methods: Iterable, clip: Clip | None, patches: int):
    """Raise `Refused` where a method needs embeddings that are missing or of another picture."""
    wanting = [method.name for method in methods if "clip_text" in method.needs]
    if wanting and clip is None:
        raise Refused(f"{wanting[0]} needs CLIP's embeddings: hand them in as `clip=`.")
    if clip is not None and len(clip.image) != patches:
        raise Refused(
            f"`clip=` is of a picture of {len(clip.image)} patches, but this prompt has {patches}."
        )
