"""Miniature models of the true classes, made during the run; nothing is downloaded."""

from __future__ import annotations

import json
import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from visipruner.families.llava import SYSTEM
from visipruner.models import memory
from visipruner.models.catalogue import load_vlm

GOLDEN = Path(__file__).parent / "golden"

# The chat template of the llava-hf checkpoints, with the tokenizer's first token written out.
TEMPLATE = (
    "{{ '<s>' }}{% for message in messages %}{% if message['role'] != 'system' %}"
    "{{ message['role'].upper() + ': '}}{% endif %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}"
    "{{ '<image>\n' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ content['text'] + ' '}}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


def make_processor(image_size: int, patch: int) -> LlavaProcessor:
    words = ["<unk>", "<s>", "</s>", "<pad>", "<image>", "USER", "ASSISTANT", ":", "?"]
    words += (SYSTEM + " what colour is the star red blue green one two").replace(".", " .").split()
    vocabulary = {word: index for index, word in enumerate(dict.fromkeys(words))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        additional_special_tokens=["<image>"],
    )
    pictures = CLIPImageProcessorPil(
        size={"shortest_edge": image_size}, crop_size={"height": image_size, "width": image_size}
    )
    return LlavaProcessor(
        image_processor=pictures,
        tokenizer=fast,
        patch_size=patch,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    )


def make_llava(processor, image_size: int, patch: int, **text) -> LlavaForConditionalGeneration:
    """A random LLaVA. In practice it never produces the end token, so no answer ends early."""
    torch.manual_seed(0)
    text = {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 8,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "initializer_range": 0.2,
        **text,
    }
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            image_size=image_size,
            patch_size=patch,
        ),
        text_config=LlamaConfig(vocab_size=len(processor.tokenizer), **text),
        image_token_id=processor.tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=(image_size // patch) ** 2,
        vision_feature_layer=-1,
    )
    model = LlavaForConditionalGeneration(config).eval()
    model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    model.generation_config.pad_token_id = processor.tokenizer.pad_token_id
    return model


@pytest.fixture(scope="session")
def mini_path(tmp_path_factory) -> Path:
    """A random LLaVA-1.5-style checkpoint: 56 px, patch 14, so 4 x 4 visual tokens."""
    path = tmp_path_factory.mktemp("checkpoints") / "mini-llava"
    processor = make_processor(56, 14)
    make_llava(processor, 56, 14).save_pretrained(path)
    processor.save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def mini(mini_path):
    return load_vlm(mini_path, device="cpu")


@pytest.fixture
def machine(monkeypatch):
    """(free gigabytes of each GPU, of main memory): the machine that the test pretends to have."""

    def pretend(*gpus, main=64):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(gpus))
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(gpus))
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
        monkeypatch.setattr(
            torch.cuda,
            "mem_get_info",
            lambda index: (gpus[index] * memory.GIGABYTE, 80 * memory.GIGABYTE),
        )
        monkeypatch.setattr(memory, "free_on_cpu", lambda: main * memory.GIGABYTE)

    return pretend


@pytest.fixture(scope="session")
def ready(tmp_path_factory):
    """name -> a loaded miniature of a family with a prompt (family_ready.py), made once."""
    from family_ready import Ready

    made = {}

    def get(name: str) -> Ready:
        if name not in made:
            made[name] = Ready(name, tmp_path_factory.mktemp(name))
        return made[name]

    return get


@pytest.fixture(scope="session")
def picture() -> Image.Image:
    """A wide picture that is not blank."""
    return Image.effect_mandelbrot((90, 60), (-2, -1, 1, 1), 50).convert("RGB")


@pytest.fixture(scope="session")
def picture_file(tmp_path_factory, picture) -> str:
    """The same in a file."""
    path = tmp_path_factory.mktemp("pictures") / "picture.png"
    picture.save(path)
    return str(path)


@pytest.fixture(scope="session")
def llama():
    """(attention backend, **config) -> a random Llama with strong attention, made once."""
    made = {}

    def make(attention="sdpa", **config) -> LlamaForCausalLM:
        key = (attention, *sorted(config.items()))
        if key not in made:
            torch.manual_seed(1)
            config = {
                "hidden_size": 64,
                "intermediate_size": 96,
                "num_hidden_layers": 8,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "vocab_size": 100,
                "initializer_range": 0.2,
                "attn_implementation": attention,
                **config,
            }
            made[key] = LlamaForCausalLM(LlamaConfig(**config)).eval()
        return made[key]

    return make


@pytest.fixture(scope="session")
def golden_model():
    """(name, attention backend) -> one of the recorded models."""
    made = {}

    def make(name, attention="sdpa"):
        if (name, attention) not in made:
            made[name, attention] = LlamaForCausalLM.from_pretrained(
                GOLDEN / "models" / name,
                attn_implementation=attention,
                dtype=torch.float32,
                trust_remote_code=False,
            ).eval()
        return made[name, attention]

    return make


class GoldenCase:
    """One recorded run of the published code."""

    def __init__(self, name: str):
        folder = GOLDEN / "cases" / name
        self.facts = json.loads((folder / "case.json").read_text())
        self.embeds = load_file(folder / "inputs.safetensors")["inputs_embeds"]
        self.outputs = load_file(folder / "outputs.safetensors")

    def __getitem__(self, key):
        return self.facts[key]


GOLDEN_CASES = sorted(path.name for path in (GOLDEN / "cases").iterdir())


def pytest_collection_modifyitems(config, items):
    """A real browser on a busy machine is late at times: its tests get a second try (tests/run)."""
    if config.pluginmanager.hasplugin("rerunfailures"):
        for item in items:
            if item.path.name.startswith("test_browser"):
                item.add_marker(pytest.mark.flaky(reruns=1))
