"""Relatives of LLaVA-1.5 in miniature: other language models behind it, and LLaVA-NeXT's crops."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    MistralConfig,
    MixtralConfig,
    Qwen2Config,
    Qwen3Config,
)

from visipruner import FastV, PruningMethod, Schedule, TokenLayout, VisiPruner, prune
from visipruner.models.catalogue import load_vlm
from visipruner.running.runner import Options, compare, last_event

SHORT = Options(max_new_tokens=4, probe=False)
VISION = CLIPVisionConfig(
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    image_size=56,
    patch_size=14,
)
TEXT = {
    "vocab_size": 60,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.2,
}
IMAGE = 59


def build(kind, config, text, **more):
    torch.manual_seed(2)
    model = kind(
        config(
            vision_config=VISION,
            text_config=text,
            image_token_id=IMAGE,
            vision_feature_layer=-1,
            **more,
        )
    ).eval()
    model.generation_config.eos_token_id = None
    for module in model.model.language_model.modules():  # Qwen2's biases start at zero
        if getattr(module, "bias", None) is not None:
            torch.nn.init.normal_(module.bias, std=0.3)
    return model


def inputs_for(model, **pictures):
    features = model.get_image_features(**pictures, return_dict=True).pooler_output
    visual = sum(len(part) for part in features)
    ids = torch.tensor([[1, 7, 8, *[IMAGE] * visual, 9, 10, 11, 12]])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), **pictures}
    return inputs, TokenLayout.from_ids(ids, IMAGE)


def relative(name):
    torch.manual_seed(3)
    if name == "llava-next":
        grids = {"image_grid_pinpoints": [[56, 112], [112, 56], [112, 112]]}
        text = LlamaConfig(**TEXT)
        model = build(LlavaNextForConditionalGeneration, LlavaNextConfig, text, **grids)
        crops, sizes = torch.randn(1, 5, 3, 56, 56), torch.tensor([[80, 112]])
        return model, *inputs_for(model, pixel_values=crops, image_sizes=sizes)
    text = {
        "mistral": lambda: MistralConfig(sliding_window=None, **TEXT),
        "qwen2": lambda: Qwen2Config(**TEXT),
        "qwen3": lambda: Qwen3Config(head_dim=16, **TEXT),
    }[name]()
    model = build(LlavaForConditionalGeneration, LlavaConfig, text)
    return model, *inputs_for(model, pixel_values=torch.randn(1, 3, 56, 56))


def generate(model, inputs):
    with torch.no_grad():
        run = model.generate(
            **inputs,
            max_new_tokens=4,
            do_sample=False,
            suppress_tokens=[model.config.image_token_id],  # random weights may say it
            return_dict_in_generate=True,
            output_logits=True,
        )
    return run.sequences[0], torch.cat(run.logits)


def check_dropping_equals_masking(model, inputs, layout):
    """The same decisions on the unpruned model in eager, by its own masks and nothing of ours."""
    backend = model.config.get_text_config()._attn_implementation
    for method in (FastV(keep=3), Schedule(keep=5, keep_after=1, none_after=3)):
        with prune(model, method, layout) as trace:
            ids, logits = generate(model, inputs)
        gone = {
            record.layer: sorted(
                set(layout.visual) - {layout.visual[p] for p in trace.patches_at(record.layer)}
            )
            for record in trace.layers
        }
        assert gone[len(gone) - 1]

        def mask(_module, args, kwargs, columns):
            seen = kwargs["attention_mask"].clone()
            seen[..., columns] = torch.finfo(seen.dtype).min
            return args, {**kwargs, "attention_mask": seen}

        model.set_attn_implementation("eager")
        layers = model.model.language_model.layers
        handles = [
            layers[i].register_forward_pre_hook(
                lambda m, a, k, columns=columns: mask(m, a, k, columns), with_kwargs=True
            )
            for i, columns in gone.items()
        ]
        full = {**inputs, "input_ids": ids[None, :-1], "attention_mask": None}
        with torch.no_grad():
            masked = model(**full).logits[0, layout.length - 1 :]
        for handle in handles:
            handle.remove()
        model.set_attn_implementation(backend)
        assert (logits - masked).abs().max() < 2e-5 * masked.abs().max()


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
    """A checkpoint with this language model behind the miniature's processor."""
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
