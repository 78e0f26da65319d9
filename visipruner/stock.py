"""The names that a release of transformers may change. No other file depends on them.

transformers 5.24 renamed the cache of a forward pass from `past_key_values` to `cache`. Callers may
still use the old name until 5.40, and models of one release differ in the name they use.

Any file may import what transformers exports at its top level and describes in its manual:
`LlavaForConditionalGeneration`, `AutoProcessor`, `LogitsProcessor`, `AttentionInterface`.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path

from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer
from transformers.generation.streamers import BaseStreamer
from transformers.image_processing_utils import select_best_resolution

from visipruner.errors import Refused

CACHE_NAMES = ("cache", "past_key_values")  # the newest first
# What a processor makes for the vision tower alone; all its other outputs go to `generate`.
TOWER_INPUTS = frozenset(
    {"pixel_values", "pixel_attention_mask", "image_sizes", "batch_num_images"}
)
# Arguments of Qwen3-VL's decoder: features for its first layers, and the tokens that get them.
ADDED_FEATURES, ADDED_WHERE = "deepstack_visual_embeds", "visual_pos_masks"
TOWERS = ("vision_tower", "vision_model", "visual")
PROJECTORS = ("multi_modal_projector", "connector", "visual.merger")
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
            if _part(layer, part) is None:
                return f"a layer without {part}"
    return None


def _part(module: nn.Module, path: str) -> nn.Module | None:
    for name in path.split("."):
        module = getattr(module, name, None)
    return module


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
    return _first(model, PROJECTORS)


def tower_of(model: nn.Module) -> nn.Module | None:
    """A model's vision tower; None: it has none under a name that is known here."""
    return _first(model, TOWERS)


def _first(model: nn.Module, paths: Iterable[str]) -> nn.Module | None:
    """The first part of a whole model that exists."""
    inner = getattr(model, "model", model)
    return next((part for part in (_part(inner, path) for path in paths) if part is not None), None)


def tower_layers(model: nn.Module) -> list[nn.Module]:
    """The layers of a model's vision tower; empty: no tower, or a tower of an unknown kind."""
    return encoder_layers(tower_of(model))


def picture_features(model: nn.Module, inputs: Mapping[str, Tensor]):
    """What `generate` takes as an encoded picture, from a processor's outputs.

    Each kind of model takes some of these outputs. The result may hold more than the embeddings.
    """
    takes = inspect.signature(model.get_image_features).parameters
    given = {name: tensor for name, tensor in inputs.items() if name in takes}
    return model.get_image_features(**given, return_dict=True)


def open_without_video(kind: type, path: Path):
    """A folder's processor without its video processor, which needs torchvision."""
    return without_video(kind).from_pretrained(path, local_files_only=True, trust_remote_code=False)


def without_video(kind: type) -> type:
    """The same class of processor without a video processor."""
    parts = classmethod(lambda _: ["image_processor", "tokenizer"])
    return type(kind.__name__, (kind,), {"get_attributes": parts})


def feature_layers(config) -> list[int]:
    """The layers of the vision tower whose outputs the projector reads."""
    found = getattr(config, "vision_feature_layers", None)  # ViP-LLaVA's, before 5.24
    found = config.vision_feature_layer if found is None else found
    return [found] if isinstance(found, int) else list(found)


def best_canvas(size: tuple[int, int], canvases) -> tuple[int, int]:
    """The canvas (height, width) on which transformers puts a picture of this height and width."""
    return select_best_resolution(size, [tuple(canvas) for canvas in canvases])


def count_features(features) -> int:
    """The number of embeddings in the result of `picture_features`."""
    parts = features.pooler_output
    return sum(part.shape[:-1].numel() for part in parts)


def encoder_layers(tower: nn.Module | None) -> list[nn.Module]:
    """The layers of a CLIP-like vision tower; empty: none, or a tower of an unknown kind."""
    for part in tower.modules() if tower is not None else ():
        layers = getattr(getattr(part, "encoder", None), "layers", None)
        if layers is not None:
            return list(layers)
    return []


__all__ = [
    "ADDED_FEATURES",
    "ADDED_WHERE",
    "CACHE_NAMES",
    "LAYER_PARTS",
    "TOWER_INPUTS",
    "AttentionInterface",
    "BaseStreamer",
    "Cache",
    "DynamicCache",
    "DynamicLayer",
    "OtherAttention",
    "attention_backend",
    "best_canvas",
    "cache_of",
    "close_cache",
    "count_features",
    "encoder_layers",
    "feature_layers",
    "find_decoder",
    "is_growing",
    "missing_part",
    "open_without_video",
    "output_cache",
    "output_projection",
    "picture_features",
    "projector_of",
    "rotated",
    "run_layer",
    "tower_layers",
    "tower_of",
    "with_cache",
    "without_video",
]
