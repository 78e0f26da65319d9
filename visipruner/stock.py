"""What a release of transformers may rename. No other file depends on these names.

transformers 5.24 renamed the cache of a forward pass from `past_key_values` to `cache`. Callers may
still use the old name until 5.40, and models of one release do not all use the same one.

What transformers offers at its top level and describes in its manual may be imported anywhere:
`LlavaForConditionalGeneration`, `AutoProcessor`, `LogitsProcessor`, `AttentionInterface`.
"""

from __future__ import annotations

import inspect
from functools import partial

from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer
from transformers.generation.streamers import BaseStreamer

from visipruner.errors import Refused

CACHE_NAMES = ("cache", "past_key_values")  # the newest first
# What is counted, floored and hooked: attention between four matrices, then a gated dense network.
LAYER_PARTS = (
    *(f"self_attn.{part}_proj" for part in "qkvo"),
    *(f"mlp.{part}_proj" for part in ("gate", "up", "down")),
)


def find_decoder(model: nn.Module) -> nn.Module:
    """What holds the decoder layers of a causal LM or a LLaVA; the model itself if unsure."""
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else model
    return getattr(decoder, "language_model", decoder)


def missing_part(decoder: nn.Module) -> str | None:
    """What a decoder lacks of Llama's parts, as the end of "it has ..."; None: nothing."""
    if not hasattr(decoder, "rotary_emb") or not getattr(decoder, "layers", None):
        return "no stack of layers with rotary positions"
    for layer in decoder.layers:
        for part in LAYER_PARTS:
            if not _has(layer, part):
                return f"a layer without {part}"
    return None


def _has(module: nn.Module, path: str) -> bool:
    for name in path.split("."):
        module = getattr(module, name, None)
    return module is not None


def cache_of(arguments: dict) -> Cache | None:
    """The cache among the keyword arguments of a decoder, a layer or an attention module."""
    for name in CACHE_NAMES:
        if arguments.get(name) is not None:
            return arguments[name]
    return None


def output_cache(output) -> Cache | None:
    """The cache that a causal LM or a LLaVA returns beside its logits."""
    for name in CACHE_NAMES:
        if getattr(output, name, None) is not None:
            return getattr(output, name)
    return None


def with_cache(module: nn.Module, cache) -> dict:
    """Keyword arguments that hand `cache` to a module's forward, whatever it calls it.

    Raises:
        Refused: the module takes no cache by a known name.
    """
    takes = inspect.signature(module.forward).parameters
    for name in CACHE_NAMES:
        if name in takes:
            return {name: cache}
    raise Refused(f"{type(module).__name__} takes no cache under a name that is known here.")


def is_growing(cache) -> bool:
    """Whether every layer of a cache is a plain pair of keys and values that grows."""
    layers = getattr(cache, "layers", None)
    plain = layers is not None and all(type(layer) is DynamicLayer for layer in layers)
    return plain and not getattr(cache, "offloading", False)


def close_cache(cache, sentence: str):
    """Refuse whatever would compute with a cache; its keys and values can still be read.

    A copy of it refuses too, because it takes these attributes along.
    """
    for name in ("update", "get_mask_sizes"):
        setattr(cache, name, partial(_refuse, sentence))


def _refuse(sentence: str, *_args, **_kwargs):
    raise Refused(sentence)


def run_layer(
    layer: nn.Module, hidden: Tensor, turns: tuple[Tensor, Tensor], cache, **more
) -> Tensor:
    """Run one decoder layer by itself, without a mask: to sdpa that means causal.

    Args:
        hidden: (1, rows, width).
        turns: cosines and sines of the rows' positions, each (1, rows, head width).
        cache: what the layer writes its keys and values to.

    Returns:
        (1, rows, width).
    """
    return layer(
        hidden,
        attention_mask=None,
        position_embeddings=turns,
        use_cache=True,
        **with_cache(layer, cache),
        **more,
    )


def rotated(query: Tensor, key: Tensor, turns: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Queries and keys turned by their positions, as Llama does it.

    Args:
        query, key: (batch, heads, rows, head width).
        turns: cosines and sines, each (batch, rows, head width).
    """
    # Here: the engine needs no model's code, and importing it takes time.
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    return apply_rotary_pos_emb(query, key, *turns)


def attention_backend(model: nn.Module) -> str:
    """The name of the attention function that a model or a part of it runs, "sdpa" for one."""
    return model.config._attn_implementation


class OtherAttention:
    """A module's own config, but for the attention function. A copy would take longer."""

    def __init__(self, own, name: str):
        self._own, self._attn_implementation = own, name

    def __getattr__(self, name):
        return getattr(self._own, name)


def projector_of(model: nn.Module) -> nn.Module | None:
    """What turns the vision tower's features into embeddings; None: the model has none."""
    inner = getattr(model, "model", model)
    return getattr(inner, "multi_modal_projector", None)


def tower_of(model: nn.Module) -> nn.Module | None:
    """A LLaVA's vision tower; None: the model has none by this name."""
    return getattr(getattr(model, "model", model), "vision_tower", None)


def tower_layers(model: nn.Module) -> list[nn.Module]:
    """The layers of a model's vision tower; empty: it has no tower, or of an unknown kind."""
    tower = tower_of(model)
    for part in tower.modules() if tower is not None else ():
        layers = getattr(getattr(part, "encoder", None), "layers", None)
        if layers is not None:
            return list(layers)
    return []


__all__ = [
    "CACHE_NAMES",
    "LAYER_PARTS",
    "AttentionInterface",
    "BaseStreamer",
    "Cache",
    "DynamicCache",
    "DynamicLayer",
    "OtherAttention",
    "attention_backend",
    "cache_of",
    "close_cache",
    "find_decoder",
    "is_growing",
    "missing_part",
    "output_cache",
    "projector_of",
    "rotated",
    "run_layer",
    "tower_layers",
    "tower_of",
    "with_cache",
]
