"""The bundled model's size and its processor. The geometry follows from these numbers."""

from __future__ import annotations

import math

import torch
from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import WordLevel
from torch import nn
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    GenerationConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from visipruner.training.vision import look_at_neighbours
from visipruner.world.phrases import SYSTEM, WORD, vocabulary
from visipruner.world.scenes import ASSETS, SIDE

FOLDER = ASSETS / "tiny-llava"
PATCH = 14
MOST_POSITIONS = 1024
LIKENESS = 1.3  # initial attention of a word to equal words, relative to chance
SPECIAL = ("<unk>", "<s>", "</s>", "<pad>", "<image>")
# The template of llava-hf/llava-1.5-7b-hf: pictures first, then text, one space after each text.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] != 'system' %}{{ message['role'].upper() + ': ' }}{% endif %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}"
    "{{ '<image>\n' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ content['text'] + ' ' }}{% endfor %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token per word. Input is lower-cased; the model only writes capitals."""
    ids = {word: number for number, word in enumerate((*SPECIAL, *vocabulary(SYSTEM)))}
    tokenizer = Tokenizer(WordLevel(ids, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(rf"{WORD}"), "removed", invert=True)
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", ids["<s>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        additional_special_tokens=["<image>"],
        model_max_length=MOST_POSITIONS,
        clean_up_tokenization_spaces=False,
    )


def build_processor() -> LlavaProcessor:
    pictures = CLIPImageProcessorPil(
        size={"shortest_edge": SIDE},
        crop_size={"height": SIDE, "width": SIDE},
        image_mean=[0.5] * 3,
        image_std=[0.25] * 3,
    )
    return LlavaProcessor(
        pictures,
        build_tokenizer(),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,  # the class token, which "default" drops
        chat_template=CHAT_TEMPLATE,
    )


def build_config(tokenizer: PreTrainedTokenizerFast) -> LlavaConfig:
    vision = CLIPVisionConfig(
        hidden_size=128,
        intermediate_size=320,
        num_hidden_layers=5,
        num_attention_heads=8,
        image_size=SIDE,
        patch_size=PATCH,
        hidden_act="gelu",
        projection_dim=128,
    )
    ids = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=12,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=MOST_POSITIONS,
        initializer_range=0.1,
        tie_word_embeddings=False,
        # Slow rotations: a word must match an equal word across hundreds of visual tokens.
        rope_parameters={"rope_type": "default", "rope_theta": 500_000.0},
        **ids,
    )
    return LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=(SIDE // PATCH) ** 2,
        projector_hidden_act="gelu",
        vision_feature_select_strategy="default",
        vision_feature_layer=-1,
        tie_word_embeddings=False,
        **ids,
    )


def build_model(tokenizer: PreTrainedTokenizerFast) -> LlavaForConditionalGeneration:
    """A fresh model. Narrow layers start near 1/sqrt(width): at 0.02 they hardly learn."""
    model = LlavaForConditionalGeneration(build_config(tokenizer))
    model.generation_config = GenerationConfig(
        do_sample=False,
        max_new_tokens=160,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    for part in (model.model.vision_tower, model.model.multi_modal_projector):
        for module in part.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.7 / math.sqrt(module.in_features))
    depth = model.config.text_config.num_hidden_layers
    with torch.no_grad():
        for layer in model.model.language_model.layers:
            attention = layer.self_attn
            # Mimetic initialisation (Trockman and Kolter, 2023): at first a word attends to equal
            # words and passes on what it finds. Without it, the model had not learnt in 500 steps
            # to find the red thing among others.
            attention.q_proj.weight *= LIKENESS
            attention.k_proj.weight.copy_(attention.q_proj.weight)
            attention.o_proj.weight.copy_(attention.v_proj.weight.T)
            attention.o_proj.weight /= math.sqrt(2 * depth)  # keep the residual sum small
            layer.mlp.down_proj.weight /= math.sqrt(2 * depth)
        model.lm_head.weight.copy_(model.model.language_model.embed_tokens.weight)
        model.model.multi_modal_projector.linear_1.weight *= 0.02  # the tower's output is large
        model.model.multi_modal_projector.linear_2.weight *= 0.5  # word embeddings are small
    look_at_neighbours(model.model.vision_tower)
    return model
