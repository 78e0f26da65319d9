"""The names that a release of transformers may change. No other file depends on them.

transformers 5.24 renamed the cache of a forward pass from `past_key_values` to `cache`. Callers may
still use the old name until 5.40, and models of one release differ in the name they use.

Any file may import what transformers exports at its top level and describes in its manual:
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
# Our hooks and counts assume attention between four matrices, then a gated dense network.
LAYER_PARTS = (
    *(f"self_attn.{part}_proj" for part in "qkvo"),
    *(f"mlp.{part}_proj" for part in ("gate", "up", "down")),
)


def find_decoder(model: nn.Module) -> nn.Module:
    """The module that holds the decoder layers of a causal LM or a LLaVA; else the model itself."""
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else model
    return getattr(decoder, "language_model", decoder)


def missing_part(decoder: nn.Module) -> str | None:
    """A missing part of Llama's, as the end of "it has ..."; None: the decoder has all."""
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


def output_projection(layer: nn.Module) -> nn.Module:
    """A decoder layer's o_proj, from all heads' outputs to the width of the model."""
    return layer.self_attn.o_proj


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
    """Keyword arguments that pass `cache` to a module's forward under the module's own name.

    Raises:
        Refused: the module takes no cache by a known name.
    """
    takes = inspect.signature(module.forward).parameters
    for name in CACHE_NAMES:
        if name in takes:
            return {name: cache}
    raise Refused(f"{type(module).__name__} takes no cache under a name that is known here.")


def is_growing(cache) -> bool:
    """Is every layer of a cache a plain, growing pair of keys and values?"""
    layers = getattr(cache, "layers", None)
    plain = layers is not None and all(type(layer) is DynamicLayer for layer in layers)
    return plain and not getattr(cache, "offloading", False)


def close_cache(cache, sentence: str):
    """Make a cache refuse further computation; its keys and values can still be read.

    A copy refuses too, because it copies these attributes.
    """
    for name in ("update", "get_mask_sizes"):
        setattr(cache, name, partial(_refuse, sentence))


def _refuse(sentence: str, *_args, **_kwargs):
    raise Refused(sentence)


def run_layer(
    layer: nn.Module,
    hidden: Tensor,
    turns: tuple[Tensor, Tensor],
    cache,
    mask: Tensor | None = None,
    **more,
) -> Tensor:
    """Run one decoder layer by itself.

    Args:
        hidden: (1, rows, width).
        turns: cosines and sines of the rows' positions, each (1, rows, head width).
        cache: the layer writes its keys and values to it.
        mask: (1, 1, rows, keys), added to the scores. None: no mask, which sdpa treats as causal.

    Returns:
        (1, rows, width).
    """
    return layer(
        hidden,
        attention_mask=mask,
        position_embeddings=turns,
        use_cache=True,
        **with_cache(layer, cache),
        **more,
    )


def rotated(query: Tensor, key: Tensor, turns: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Queries and keys with Llama's rotary embedding.

    Args:
        query, key: (batch, heads, rows, head width).
        turns: cosines and sines, each (batch, rows, head width).
    """
    # Imported here: the engine needs no model's code, and the import takes time.
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    return apply_rotary_pos_emb(query, key, *turns)


def attention_backend(model: nn.Module) -> str:
    """The name of the attention function that a model or a part of it runs, such as "sdpa"."""
    return model.config._attn_implementation


class OtherAttention:
    """A module's own config with another attention function. A copy would take longer."""

    def __init__(self, own, name: str):
        self._own, self._attn_implementation = own, name

    def __getattr__(self, name):
        return getattr(self._own, name)


def projector_of(model: nn.Module) -> nn.Module | None:
    """The module that turns the vision tower's features into embeddings; None: no such module."""
    inner = getattr(model, "model", model)
    return getattr(inner, "multi_modal_projector", None)


def tower_of(model: nn.Module) -> nn.Module | None:
    """A LLaVA's vision tower; None: the model has none under this name."""
    return getattr(getattr(model, "model", model), "vision_tower", None)


def tower_layers(model: nn.Module) -> list[nn.Module]:
    """The layers of a model's vision tower; empty: no tower, or a tower of an unknown kind."""
    return encoder_layers(tower_of(model))


def encoder_layers(tower: nn.Module | None) -> list[nn.Module]:
    """The layers of a CLIP-like vision tower; empty: none, or a tower of an unknown kind."""
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
    "encoder_layers",
    "find_decoder",
    "is_growing",
    "missing_part",
    "output_cache",
    "output_projection",
    "projector_of",
    "rotated",
    "run_layer",
    "tower_layers",
    "tower_of",
    "with_cache",
]
