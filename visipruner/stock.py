"""What a release of transformers may rename. No other file depends on these names.

transformers 5.24 renamed the cache of a forward pass from `past_key_values` to `cache`. Callers may
still use the old name until 5.40, and models of one release do not all use the same one.
"""

from __future__ import annotations

import inspect
from functools import partial

from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from visipruner.errors import Refused

CACHE_NAMES = ("cache", "past_key_values")  # the newest first


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


def attention_backend(model: nn.Module) -> str:
    """The name of the attention function that a model or decoder runs, "sdpa" for one."""
    return model.config._attn_implementation


__all__ = [
    "CACHE_NAMES",
    "AttentionInterface",
    "Cache",
    "DynamicCache",
    "DynamicLayer",
    "attention_backend",
    "cache_of",
    "close_cache",
    "is_growing",
    "output_cache",
    "run_layer",
    "with_cache",
]
