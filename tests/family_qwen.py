"""Miniatures of Qwen-VL, and what the reference must know about them."""

from __future__ import annotations

import torch
from family_parts import TEXT, TOWERS, Mini, tokenizer_of
from reference import Special, angles_of
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessorPil,
    Qwen2VLProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
)

from visipruner.stock import without_video

QWEN = (
    "{% for message in messages %}SYSTEM<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}<|im_end|>\n{% else %}"
    "{% for content in message['content'] %}{% if content['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% elif 'text' in content %}"
    "{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
HELPFUL = (
    "{% if loop.first and message['role'] != 'system' %}<|im_start|>system\n"
    "You are a helpful assistant.<|im_end|>\n{% endif %}"
)
ASKED_QWEN = (
    "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>what?<|im_end|>\n"
    "<|im_start|>assistant\n"
)
QWEN2_VISION = {
    "depth": 2,
    "embed_dim": 32,
    "hidden_size": 32,
    "mlp_ratio": 2,
    "num_heads": 4,
    "patch_size": 7,
}
QWEN25_VISION = {
    "depth": 3,
    "hidden_size": 32,
    "out_hidden_size": 32,
    "intermediate_size": 40,
    "num_heads": 4,
    "patch_size": 7,
    "window_size": 42,
    "fullatt_block_indexes": [1],
}
QWEN3_VISION = {
    "depth": 4,
    "hidden_size": 32,
    "out_hidden_size": 32,
    "intermediate_size": 40,
    "num_heads": 4,
    "patch_size": 7,
    "num_position_embeddings": 64,
    "deepstack_visual_indexes": [0, 1, 3],
}


def qwen(model, config, processor, vision, system="", **text):
    def make():
        marks = [f"<|{name}|>" for name in ("im_start", "im_end", "image_pad", "video_pad")]
        tokenizer = tokenizer_of(*marks, "<|vision_start|>", "<|vision_end|>", bos=None)
        made = without_video(processor)(
            image_processor=Qwen2VLImageProcessorPil(
                patch_size=7, size={"shortest_edge": 14 * 14 * 4, "longest_edge": 14 * 14 * 40}
            ),
            tokenizer=tokenizer,
            chat_template=QWEN.replace("SYSTEM", system),
        )
        ids = tokenizer.convert_tokens_to_ids
        theta = {"rope_type": "default", "rope_theta": 1e6}
        section = {"mrope_section": text.get("section", [2, 1, 1])}
        more = {name: value for name, value in text.items() if name != "section"}
        sizes = {**TEXT, "rope_parameters": {**theta, **section}, **more}
        whole = config(
            vision_config=vision,
            text_config={**sizes, "vocab_size": len(tokenizer)},
            image_token_id=ids("<|image_pad|>"),
            video_token_id=ids("<|video_pad|>"),
            vision_start_token_id=ids("<|vision_start|>"),
            vision_end_token_id=ids("<|vision_end|>"),
            tie_word_embeddings=False,
        )
        return model(whole), made

    return make


def qwen_special(axis_of):
    """What the reference must know: places of three dimensions, by their definition; DeepStack.

    Args:
        axis_of: (frequency, section) -> 0, 1, 2: which of time, row and column turns it.
    """

    def special(ready) -> Special:
        (start, stop), *more = ready.layout.spans
        assert not more
        _, rows, columns = (ready.prompt.inputs["image_grid_thw"][0] // 2).tolist()
        after = start + max(rows, columns)
        cells = [
            (start, start + row, start + column) for row in range(rows) for column in range(columns)
        ]
        before, later = range(start), range(after, after + ready.layout.length - stop + 50)
        places = torch.tensor([(i, i, i) for i in before] + cells + [(i, i, i) for i in later])
        config = ready.plain.config
        width = (
            getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        )
        theta, section = (config.rope_parameters[n] for n in ("rope_theta", "mrope_section"))
        by_axis = [angles_of(places[:, axis], width, theta) for axis in range(3)]
        chosen = [by_axis[axis_of(k, section)][:, k] for k in range(width // 2)]
        outputs = ready.vlm.encode(ready.prompt).outputs
        added = getattr(outputs, "deepstack_features", None) or ()
        added = tuple(part if torch.is_tensor(part) else torch.cat(part) for part in added)
        return Special(torch.stack(chosen, 1), added, ready.layout.visual)

    return special


def in_sections(frequency: int, section: list[int]) -> int:
    return 0 if frequency < section[0] else 1 if frequency < section[0] + section[1] else 2


def in_turn(frequency: int, section: list[int]) -> int:
    axis = frequency % 3
    return axis if axis and frequency < 3 * section[axis] else 0


def of_qwen(make, prompt, axis_of) -> Mini:
    return Mini(
        make,
        prompt,
        lacks=frozenset({*TOWERS, "pool", "sparsevlm"}),
        special=qwen_special(axis_of),
        output="attn.proj",
        patch=14,
        channels_last=lambda pixels: pixels.view(-1, 3, 2, 7, 7).movedim(1, -1),
    )


IN_QWEN = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n" + ASKED_QWEN

QWENS = {
    "qwen2-vl": of_qwen(
        qwen(
            Qwen2VLForConditionalGeneration, Qwen2VLConfig, Qwen2VLProcessor, QWEN2_VISION, HELPFUL
        ),
        IN_QWEN,
        in_sections,
    ),
    "qwen2.5-vl": of_qwen(
        qwen(
            Qwen2_5_VLForConditionalGeneration,
            Qwen2_5_VLConfig,
            Qwen2_5_VLProcessor,
            QWEN25_VISION,
            HELPFUL,
        ),
        IN_QWEN,
        in_sections,
    ),
    "qwen3-vl": of_qwen(
        qwen(
            Qwen3VLForConditionalGeneration,
            Qwen3VLConfig,
            Qwen3VLProcessor,
            QWEN3_VISION,
            head_dim=16,
            section=[4, 2, 2],
        ),
        ASKED_QWEN,
        in_turn,
    ),
}
