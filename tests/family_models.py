"""Miniature random checkpoints of the true classes, for every family beside LLaVA-1.5.

The chat templates are those of public model cards; none was tried with the real file. The tokenizer
is our own: one token for each byte, and the marks of the family.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from reference import PLAIN, Special, angles_of
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
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
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2Config,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessorPil,
    Qwen2VLProcessor,
    Qwen3Config,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    SiglipVisionConfig,
    VipLlavaConfig,
    VipLlavaForConditionalGeneration,
)

from visipruner.stock import without_video

TEXT = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.2,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
    "tie_word_embeddings": False,
}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 28,
    "patch_size": 7,
}
TOWERS = ("visionzip", "vispruner", "holov", "cdpruner")  # methods that read a CLIP tower
CANVASES = [[28, 56], [56, 28], [56, 56]]


def picture_of(width: int, height: int) -> Image.Image:
    """A picture that is not blank."""
    return Image.effect_mandelbrot((width, height), (-2, -1, 1, 1), 50).convert("RGB")


def tokenizer_of(*marks: str, bos: str | None = "<s>", **named: str) -> PreTrainedTokenizerFast:
    """One token per byte, then the marks.

    Args:
        bos: put before every text; None: nothing is.
        named: further marks by the name that a processor asks for.
    """
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    first = {"bos_token": bos} if bos else {}
    made = PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="</s>",
        pad_token="<pad>",
        **({"extra_special_tokens": named} if named else {}),
        **first,
    )
    made.add_tokens([mark for mark in marks if mark not in made.get_vocab()], special_tokens=True)
    if bos:
        ids = [(bos, made.convert_tokens_to_ids(bos))]
        made._tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=ids
        )
    return made


def finished(model: PreTrainedModel, tokenizer) -> PreTrainedModel:
    """Biases that matter, and no answer that ends early or names a mark."""
    for module in model.modules():
        if getattr(module, "bias", None) is not None and isinstance(module.bias, torch.Tensor):
            torch.nn.init.normal_(module.bias, std=0.1)
    marks = list(tokenizer.added_tokens_decoder)
    with torch.no_grad():
        model.get_output_embeddings().weight[marks] = 0
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model.eval()


@dataclass(frozen=True)
class Mini:
    """A miniature: how to make it, and what its prompts look like."""

    make: Callable[[], tuple[PreTrainedModel, object]]  # (model, processor)
    prompt: str  # the whole prompt for "what?", with one picture's word
    lacks: frozenset = frozenset({*TOWERS, "pool"})  # methods that it does not take
    special: Callable = lambda _ready: PLAIN  # what the reference must know about this family
    output: str = "self_attn.out_proj"  # of the tower's attention
    patch: int = VISION["patch_size"]  # pixels of a visual token's side
    padded: bool = False  # is the picture padded to a square, which is then what the model sees?
    resampled: bool = False  # does a visual token mix those of neighbouring patches?
    channels_last: Callable = lambda pixels: pixels.movedim(-3, -1)  # of pixel_values

    def save(self, folder: Path) -> Path:
        """Write a checkpoint folder."""
        torch.manual_seed(5)
        model, processor = self.make()
        finished(model, processor.tokenizer).save_pretrained(folder)
        processor.save_pretrained(folder)
        return folder


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


# -- Qwen-VL

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
                patch_size=7, size={"shortest_edge": 14 * 14 * 4, "longest_edge": 14 * 14 * 70}
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
