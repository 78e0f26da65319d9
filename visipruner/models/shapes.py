"""The true shapes of the named models: their config.json, as far as it fixes sizes and FLOPs.

Source: the config.json of each repository on the hub and the defaults of transformers'
configuration classes, from which those files differ only as written here. The files themselves
were not fetched here. As a check, the shapes give the numbers of parameters that the models' public
pages name (`tests/test_named_models.py`).
"""

from __future__ import annotations

from functools import cache

import torch
from transformers import PreTrainedConfig

from visipruner.families import FAMILIES

CLIP_L = {  # openai/clip-vit-large-patch14-336
    "model_type": "clip_vision_model",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
    "projection_dim": 768,
}
SIGLIP_L = {  # google/siglip-so400m-patch14-384 without its last layer and its head
    "model_type": "siglip_vision_model",
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 26,
    "num_attention_heads": 16,
    "image_size": 384,
    "patch_size": 14,
    "vision_use_head": False,
}
SIGLIP_B = {  # google/siglip-base-patch16-512
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 512,
    "patch_size": 16,
}


def _text(kind: str, width: int, inner: int, layers: int, heads: int, kv: int, words: int, **more):
    return {
        "model_type": kind,
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "vocab_size": words,
        **more,
    }


def _smolvlm(text: dict) -> dict:
    return {
        "model_type": "idefics3",
        "scale_factor": 4,
        "image_token_id": 49190,
        "vision_config": SIGLIP_B,
        "text_config": text,
    }


def _llava(kind: str, text: dict) -> dict:
    return {
        "model_type": kind,
        "image_token_index": 32000,
        "vision_config": CLIP_L,
        "text_config": text,
    }


VICUNA_7B = _text("llama", 4096, 11008, 32, 32, 32, 32064)
# By the names of specs.py.
SHAPES: dict[str, dict] = {
    "smolvlm-256m": _smolvlm(_text("llama", 576, 1536, 30, 9, 3, 49280)),
    "smolvlm-500m": _smolvlm(_text("llama", 960, 2560, 32, 15, 5, 49280)),
    "llava-onevision-0.5b": {
        "model_type": "llava_onevision",
        "vision_config": SIGLIP_L,
        "text_config": _text("qwen2", 896, 4864, 24, 14, 2, 152000, tie_word_embeddings=True),
    },
    "llava-interleave-0.5b": {
        "model_type": "llava",
        "image_token_index": 151646,
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "full",
        "vision_config": SIGLIP_L,
        "text_config": _text("qwen2", 1024, 2816, 24, 16, 16, 152000, tie_word_embeddings=True),
    },
    "internvl3.5-1b": {
        "model_type": "internvl",
        "tie_word_embeddings": False,
        "image_token_id": 151671,
        "vision_config": {
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "attention_bias": True,
            "image_size": (448, 448),
            "patch_size": (14, 14),
        },
        "text_config": _text("qwen3", 1024, 3072, 28, 16, 8, 151936, head_dim=128),
    },
    "tiny-llava-1.4b": _llava("llava", _text("llama", 2048, 5632, 22, 32, 4, 32064)),
    "qwen3-vl-2b": {
        "model_type": "qwen3_vl",
        "tie_word_embeddings": True,
        "vision_config": {
            "depth": 24,
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_heads": 16,
            "out_hidden_size": 2048,
            "deepstack_visual_indexes": [5, 11, 17],
        },
        "text_config": _text(
            "qwen3_vl_text",
            *(2048, 6144, 28, 16, 8, 151936),
            head_dim=128,
            rope_parameters={
                "rope_type": "default",
                "rope_theta": 5e6,
                "mrope_section": [24, 20, 20],
            },
        ),
    },
    "qwen2.5-vl-3b": {
        "model_type": "qwen2_5_vl",
        "tie_word_embeddings": True,
        "vision_config": {
            "depth": 32,
            "hidden_size": 1280,
            "intermediate_size": 3420,
            "num_heads": 16,
            "out_hidden_size": 2048,
        },
        "text_config": _text(
            "qwen2_5_vl_text",
            *(2048, 11008, 36, 16, 2, 151936),
            rope_parameters={
                "rope_type": "default",
                "rope_theta": 1e6,
                "mrope_section": [16, 24, 24],
            },
        ),
    },
    "llava-1.5-7b": _llava("llava", VICUNA_7B),
    "llava-1.6-7b": _llava("llava_next", VICUNA_7B),
    "llava-1.5-13b": _llava("llava", _text("llama", 5120, 13824, 40, 40, 40, 32064)),
}


def config_of(name: str) -> PreTrainedConfig:
    """The configuration of a model in SHAPES."""
    kind = SHAPES[name]["model_type"]
    return FAMILIES[kind].kinds[kind].config_class.from_dict(dict(SHAPES[name]))


@cache
def parameters(name: str) -> int:
    """Parameters of a model in SHAPES; takes a second."""
    config = config_of(name)
    with torch.device("meta"):
        model = FAMILIES[config.model_type].kinds[config.model_type](config)
    model.tie_weights()
    return sum(parameter.numel() for parameter in model.parameters())
