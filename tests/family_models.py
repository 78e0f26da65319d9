"""Miniature random checkpoints of the true classes, for every family beside LLaVA-1.5.

The chat templates are those of public model cards; none was tried with the real file. The tokenizer
is our own: one token for each byte, and the marks of the family.
"""

from __future__ import annotations

from family_parts import TEXT, TOWERS, VISION, Mini, tokenizer_of
from family_qwen import QWENS
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    GotOcr2ImageProcessorPil,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessorPil,
    Idefics3Processor,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    LlamaConfig,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessorPil,
    LlavaNextProcessor,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessorPil,
    LlavaOnevisionProcessor,
    LlavaProcessor,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
    SiglipVisionConfig,
    VipLlavaConfig,
    VipLlavaForConditionalGeneration,
)

from visipruner.stock import without_video

CANVASES = [[28, 56], [56, 28], [56, 56]]


# -- LLaVA-NeXT

VICUNA = (
    "{% for message in messages %}{% if message['role'] != 'system' %}"
    "{{ message['role'].upper() + ': '}}{% endif %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}"
    "{{ '<image>\n' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ content['text'] + ' '}}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
MISTRAL = (
    "{% for message in messages %}{% if message['role'] == 'system' %}"
    "{{ '<<SYS>>\n' + message['content'][0]['text'] + '\n<</SYS>>\n\n' }}"
    "{% elif message['role'] == 'user' %}{{ '[INST] ' }}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}"
    "{{ '<image>\n' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ content['text'] }}{% endfor %}{{ ' [/INST]' }}{% endif %}{% endfor %}"
)
SAID = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, and polite answers to the user's questions. "
)


def next_pictures(kind=LlavaNextImageProcessorPil):
    side = {"height": VISION["image_size"], "width": VISION["image_size"]}
    return kind(
        size={"shortest_edge": VISION["image_size"]},
        crop_size=side,
        image_grid_pinpoints=CANVASES,
    )


def llava_next(text, template):
    def make():
        tokenizer = tokenizer_of("<image>")
        processor = LlavaNextProcessor(
            image_processor=next_pictures(),
            tokenizer=tokenizer,
            patch_size=VISION["patch_size"],
            vision_feature_select_strategy="default",
            num_additional_image_tokens=1,
            chat_template=template,
        )
        config = LlavaNextConfig(
            vision_config=CLIPVisionConfig(**VISION),
            text_config=text(vocab_size=len(tokenizer), **TEXT),
            image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
            image_grid_pinpoints=CANVASES,
            vision_feature_layer=-1,
            tie_word_embeddings=False,
        )
        return LlavaNextForConditionalGeneration(config), processor

    return make


# -- ViP-LLaVA

HUMAN = (
    "{% for message in messages %}{{ '###Human: ' }}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}"
    "{{ '<image>\n' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ content['text'] }}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '###Assistant:' }}{% endif %}"
)


def vipllava():
    tokenizer = tokenizer_of("<image>")
    side = {"height": 28, "width": 28}
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size=side),
        tokenizer=tokenizer,
        chat_template=HUMAN,
    )
    config = VipLlavaConfig(
        vision_config=CLIPVisionConfig(**VISION),
        text_config=LlamaConfig(vocab_size=len(tokenizer), **TEXT),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layers=[-1, -2, 1],  # its name before 5.24, which still takes it
        tie_word_embeddings=False,
    )
    return VipLlavaForConditionalGeneration(config), processor


# -- LLaVA-OneVision

ONEVISION = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + ' '}}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}"
    "{{ '<image>' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ '\n' + content['text'] }}{% endfor %}{{'<|im_end|>'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def onevision(most: int):
    def make():
        tokenizer = tokenizer_of("<image>", "<video>", "<|im_start|>", "<|im_end|>", bos=None)
        # 30 pixels in patches of 7: a rim of two that no patch covers.
        vision = {**VISION, "image_size": 30}
        sizes = [[30 * high, 30 * wide] for high in range(1, 4) for wide in range(1, 4)]
        processor = without_video(LlavaOnevisionProcessor)(
            image_processor=LlavaOnevisionImageProcessorPil(
                size={"height": 30, "width": 30}, image_grid_pinpoints=sizes
            ),
            tokenizer=tokenizer,
            num_image_tokens=16,
            vision_feature_select_strategy="full",
            vision_aspect_ratio=f"anyres_max_{most}",
            chat_template=ONEVISION,
        )
        config = LlavaOnevisionConfig(
            vision_config=SiglipVisionConfig(**vision, vision_use_head=False),
            text_config=Qwen2Config(vocab_size=len(tokenizer), **TEXT),
            image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
            video_token_id=tokenizer.convert_tokens_to_ids("<video>"),
            image_grid_pinpoints=sizes,
            vision_aspect_ratio=f"anyres_max_{most}",
            tie_word_embeddings=False,
        )
        return LlavaOnevisionForConditionalGeneration(config), processor

    return make


# -- Idefics3, SmolVLM

SMOLVLM = (
    "<|im_start|>{% for message in messages %}{{message['role'] | capitalize}}"
    "{% if message['content'][0]['type'] == 'image' %}{{':'}}{% else %}{{': '}}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{line['text']}}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n"
    "{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)


def idefics3(text, template, **pictures):
    def make():
        marks = ("<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>")
        tiles = (f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7))
        tokenizer = tokenizer_of(*marks, *tiles, "<|im_start|>", bos=None)
        processor = Idefics3Processor(
            image_processor=Idefics3ImageProcessorPil(
                size={"longest_edge": 84}, max_image_size={"longest_edge": 28}, **pictures
            ),
            tokenizer=tokenizer,
            image_seq_len=4,
            chat_template=template,
        )
        config = Idefics3Config(
            vision_config=VISION,
            text_config=text(vocab_size=len(tokenizer), **TEXT),
            image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
            scale_factor=2,
            tie_word_embeddings=False,
            pad_token_id=tokenizer.pad_token_id,
        )
        return Idefics3ForConditionalGeneration(config), processor

    return make


# -- InternVL

INTERNVL = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n'}}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for content in message['content'] %}{% if content['type'] == 'image' %}"
    "{{ '<IMG_CONTEXT>\n' }}{% elif content['type'] == 'text' %}{{ content['text'] }}"
    "{% endif %}{% endfor %}{% endif %}{{'<|im_end|>\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{'<|im_start|>assistant\n' }}{% endif %}"
)


def internvl(text, **pictures):
    def make():
        tokenizer = tokenizer_of(
            "<|im_start|>",
            "<|im_end|>",
            bos=None,
            start_image_token="<img>",
            end_image_token="</img>",
            context_image_token="<IMG_CONTEXT>",
            video_token="<video>",
        )
        side = {"height": 28, "width": 28}
        settings = {"crop_to_patches": True, "max_patches": 6, **pictures}
        processor = without_video(InternVLProcessor)(
            image_processor=GotOcr2ImageProcessorPil(size=side, **settings),
            tokenizer=tokenizer,
            image_seq_length=4,
            chat_template=INTERNVL,
        )
        sizes = {"image_size": (28, 28), "patch_size": (7, 7), "layer_scale_init_value": 1.0}
        config = InternVLConfig(
            vision_config={**VISION, **sizes},
            text_config=text(vocab_size=len(tokenizer), **TEXT),
            image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
            image_seq_length=4,
            tie_word_embeddings=False,
        )
        return InternVLForConditionalGeneration(config), processor

    return make


def qwen3(**sizes):
    return Qwen3Config(head_dim=16, **sizes)


IN_INTERNVL = "<|im_start|>user\n<IMG_CONTEXT>\nwhat?<|im_end|>\n<|im_start|>assistant\n"

MINIS = {
    "next-vicuna": Mini(llava_next(LlamaConfig, VICUNA), SAID + "USER: <image>\nwhat? ASSISTANT:"),
    "next-mistral": Mini(
        llava_next(lambda **sizes: MistralConfig(sliding_window=None, **sizes), MISTRAL),
        "[INST] <image>\nwhat? [/INST]",
    ),
    "vipllava": Mini(
        vipllava,
        "###Human: <image>\nwhat?###Assistant:",
        lacks=frozenset(TOWERS),
        padded=True,
    ),
    "onevision": Mini(
        onevision(9), "<|im_start|>user <image>\nwhat?<|im_end|><|im_start|>assistant\n"
    ),
    "smolvlm": Mini(
        idefics3(LlamaConfig, SMOLVLM),
        "<|im_start|>User:<image>what?<end_of_utterance>\nAssistant:",
        lacks=frozenset(TOWERS),
        patch=14,
    ),
    "internvl": Mini(
        internvl(Qwen2Config),
        IN_INTERNVL,
        lacks=frozenset(TOWERS),
        patch=14,
        output="attention.projection_layer",
    ),
    "internvl-qwen3": Mini(
        internvl(qwen3),
        IN_INTERNVL,
        lacks=frozenset(TOWERS),
        patch=14,
        output="attention.projection_layer",
    ),
    **QWENS,
}

# Other settings of the same classes, which change where visual tokens look.
VARIANTS = {
    "internvl-one-tile": Mini(
        internvl(Qwen2Config, max_patches=1),
        "",
        patch=14,
        output="attention.projection_layer",
    ),
    "onevision-resampled": Mini(onevision(3), "", resampled=True),
    "smolvlm-one-tile": Mini(
        idefics3(LlamaConfig, SMOLVLM, do_image_splitting=False),
        "<|im_start|>User:<image>what?<end_of_utterance>\nAssistant:",
        lacks=frozenset(TOWERS),
        patch=14,
    ),
}
