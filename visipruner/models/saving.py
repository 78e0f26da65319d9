"""What pruning can save at best, by formula: the picture's share of the prefill's FLOPs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch

from visipruner.families import family_of
from visipruner.flops import ModelShape
from visipruner.layout import TokenLayout
from visipruner.models.shapes import config_of
from visipruner.prompt import Prompt

TEXT = (35, 40)  # tokens before and after the picture: a short question to LLaVA-1.5


@dataclass(frozen=True)
class Saving:
    """FLOPs of an unpruned prompt about one picture, and the picture's share of them.

    No method saves more: the text remains, even if no visual token enters the first layer.

    Args:
        visual: visual tokens of one picture, 640 x 480 if their number depends on it.
        tower: of the vision tower with its projector.
        full, text: of the language model's prefill, with the picture and without it.
    """

    visual: int
    tower: int
    full: int
    text: int

    @property
    def language(self) -> float:
        """The picture's share within the language model, from 0 to 1."""
        return (self.full - self.text) / self.full

    @property
    def whole(self) -> float:
        """The same FLOPs as a share of vision tower and language model together."""
        return (self.full - self.text) / (self.full + self.tower)


def saving(config) -> Saving:
    """By a model's configuration."""
    shape, prompt = ModelShape.of(config), sample_prompt(config)
    full, text = (prefill_flops(shape, tokens) for tokens in (prompt.layout.length, sum(TEXT)))
    tower = family_of(config.model_type).tower_flops(config, prompt)
    return Saving(prompt.layout.num_visual, tower, full, text)


@cache
def saving_of(name: str) -> Saving:
    """By the name of a model in shapes.py."""
    return saving(config_of(name))


def prefill_flops(shape: ModelShape, tokens: int) -> int:
    """FLOPs of an unpruned prompt in the language model, as `flops.executed` counts them."""
    layer = tokens * shape.token_macs() + tokens**2 * shape.pair_macs()
    return 2 * (shape.layers * layer + shape.width * shape.vocabulary)


def sample_prompt(config) -> Prompt:
    """A prompt about one picture, as far as a configuration tells: its pixels have only a shape.

    All text tokens are the same one, and none stands between the parts of a picture.
    """
    family, image = family_of(config.model_type), config.image_token_id
    before, after = TEXT
    ids = torch.tensor([[1] * before + [image] * family.tokens(config) + [1] * after])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    layout = TokenLayout.from_ids(ids, image)
    return Prompt("", "", {**inputs, **family.sample(config, ids)}, layout, ())
