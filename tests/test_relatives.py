"""Relatives of LLaVA-1.5 in miniature: other language models, and LLaVA-NeXT's crops."""

from __future__ import annotations

import pytest
import torch
from support import (
    TEXT,
    VISION,
    build,
    check_dropping_equals_masking,
    generate,
    inputs_for,
    relative,
)
from transformers import (
    LlavaConfig,
    LlavaForConditionalGeneration,
    MistralConfig,
    MixtralConfig,
    Qwen2Config,
    Qwen3Config,
)

from visipruner import FastV, PruningMethod, VisiPruner, prune
from visipruner.models.catalogue import load_vlm
from visipruner.running.results import Options
from visipruner.running.runner import compare, last_event

SHORT = Options(max_new_tokens=4, probe=False)


@pytest.mark.parametrize("name", ["mistral", "qwen2", "qwen3", "llava-next"])
def test_relatives_prune_exactly(name):
    model, inputs, layout = relative(name)
    ids, logits = generate(model, inputs)
    for method in (PruningMethod(), FastV(keep=1000)):
        with prune(model, method, layout) as trace:
            kept_ids, kept_logits = generate(model, inputs)
        assert torch.equal(kept_ids, ids) and torch.equal(kept_logits, logits)
        assert trace.complete
    check_dropping_equals_masking(model, inputs, layout)
    with prune(model, VisiPruner(shallow_layers=2, layer_threshold=0.9999), layout) as trace:
        generate(model, inputs)
    assert trace.why
    if name == "llava-next":  # the whole picture, four crops without their padding, and line ends
        assert layout.num_visual > 16 + 4 * 8


def test_mistral_with_a_sliding_window_is_refused():
    text = MistralConfig(sliding_window=8, **TEXT)
    model = build(LlavaForConditionalGeneration, LlavaConfig, text)
    inputs, layout = inputs_for(model, pixel_values=torch.randn(1, 3, 56, 56))
    with pytest.raises(ValueError, match="sliding windows"), prune(model, FastV(), layout):
        generate(model, inputs)


def save(mini, folder, text):
    """A checkpoint with this language model and the miniature's processor."""
    torch.manual_seed(2)
    image = mini.model.config.image_token_id
    config = LlavaConfig(
        vision_config=VISION, text_config=text, image_token_id=image, vision_feature_layer=-1
    )
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    mini.processor.save_pretrained(folder)


def test_a_folder_whose_language_model_cannot_be_pruned_is_refused_at_once(mini, tmp_path):
    words = len(mini.processor.tokenizer)
    save(mini, tmp_path, MixtralConfig(**{**TEXT, "vocab_size": words}, num_local_experts=2))
    with pytest.raises(ValueError, match=r"not a Llama-like model: .* without mlp\.gate_proj"):
        load_vlm(tmp_path, device="cpu")


@pytest.mark.parametrize("name", ["mistral", "qwen2", "qwen3"])
def test_relatives_load_and_answer_like_llava(name, mini, picture, tmp_path):
    words = len(mini.processor.tokenizer)
    kind = {"mistral": MistralConfig, "qwen2": Qwen2Config, "qwen3": Qwen3Config}[name]
    extra = {"mistral": {"sliding_window": None}, "qwen3": {"head_dim": 16}}.get(name, {})
    save(mini, tmp_path, kind(**{**TEXT, "vocab_size": words}, **extra))
    vlm = load_vlm(tmp_path, device="cpu")
    prompt = vlm.prepare(picture, "what colour is the star?")
    done = last_event(compare(vlm, prompt, [PruningMethod(), FastV(keep=3)], SHORT)).comparison
    assert done.answers[1].counts.executed.prefill < done.answers[0].counts.executed.prefill
