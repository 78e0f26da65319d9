"""The parts of miniature checkpoints: sizes, a tokenizer of bytes, and what a miniature is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from reference import PLAIN
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedModel, PreTrainedTokenizerFast

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
