"""A whole LLaVA of a known shape, vision tower included, with a prompt: as the page runs it."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import torch
from transformers import AutoModelForImageTextToText, CLIPVisionConfig, LlavaConfig

from visipruner.bench.scenarios import SHAPES, TEXT, language_config, made, named
from visipruner.bench.timing import seconds
from visipruner.families.base import Encoded
from visipruner.layout import TokenLayout
from visipruner.models.catalogue import VLM, ModelSpec, load_vlm
from visipruner.models.shapes import CLIP_L  # LLaVA-1.5's vision tower
from visipruner.prompt import Prompt
from visipruner.tower import Clip
from visipruner.world.drawing import render
from visipruner.world.questions import ask_about
from visipruner.world.scenes import make_scene

SCENE, SKILL = 8, "colour"  # the bundled model's picture and question


@dataclass
class Whole:
    """A model and a prompt.

    Args:
        clip: stands for CLIP's embeddings of picture and question.
        random: the weights are random, so a decision by a threshold means nothing.
    """

    name: str
    vlm: VLM
    prompt: Prompt
    clip: Clip
    random: bool
    towers: list[float] = field(default_factory=list)  # seconds, like the list below
    watched: list[float] = field(default_factory=list)

    def __post_init__(self):
        self.encoded: Encoded = self.vlm.encode(self.prompt, note_tower=True)
        ids = self.prompt.inputs["input_ids"].to(self.vlm.device)
        self.inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    @property
    def device(self) -> str:
        return str(self.vlm.device)  # "cpu" or "cuda:0"

    def forward(self):
        """The prompt through the language model, with the logits of its last token."""
        self.vlm.model(**self.inputs, **self.encoded.arguments, logits_to_keep=1)

    def look(self, turn: int):
        """One sample of the vision tower with its projector, and one of the same, watched."""
        for note in (False, True) if turn % 2 == 0 else (True, False):
            times = self.watched if note else self.towers
            times.append(seconds(lambda note=note: self.vlm.encode(self.prompt, note), self.device))


def whole(name: str, device: str, precision: str) -> Whole:
    """The bundled model ("tiny") with a drawn scene, or random weights of a shape in SHAPES.

    A random model has LLaVA-1.5's vision tower and projector before the shape's language model; its
    picture, its text and CLIP's embeddings are noise. Every number is drawn by a fixed seed.

    Args:
        precision: as for `scenario`.

    Raises:
        Refused: the name is unknown.
    """
    named(name)
    if name == "tiny":
        vlm = load_vlm("tiny", device=device, precision=precision)
        scene = make_scene(SCENE, "heldout")
        prompt = vlm.prepare(render(scene), ask_about(scene, SKILL, random.Random(0)).text)
    else:
        vlm = random_llava(name, device, precision, SHAPES[name], CLIP_L)
        prompt = noise_prompt(vlm)
    return Whole(name, vlm, prompt, noise_clip(vlm, prompt), name != "tiny")


def random_llava(name: str, device: str, precision: str, text: dict, vision: dict) -> VLM:
    """A LLaVA-1.5 of random weights.

    Args:
        text: the language model's sizes, as in SHAPES; vision: the vision tower's.
    """
    text = language_config(text)
    side = vision["image_size"] // vision["patch_size"]
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**vision),
        text_config=text,
        image_token_id=text.vocab_size - 1,
        image_seq_length=side * side,
    )
    model = made(AutoModelForImageTextToText, config, device, precision)
    return VLM(ModelSpec(name, name), model, None, precision)


def noise_prompt(vlm: VLM) -> Prompt:
    """Noise for one picture, with random tokens before and after it."""
    config, generator = vlm.model.config, torch.Generator().manual_seed(1)
    (grid,) = vlm.facts().grids
    before, after = (
        torch.randint(1, config.image_token_id, (1, count), generator=generator) for count in TEXT
    )
    picture = torch.full((1, grid[0] * grid[1]), config.image_token_id)
    ids, side = torch.cat([before, picture, after], 1), config.vision_config.image_size
    pixels = torch.randn(1, 3, side, side, generator=generator)
    inputs = {"input_ids": ids, "pixel_values": pixels}
    layout = TokenLayout.from_ids(ids, config.image_token_id, grid)
    return Prompt("", "", inputs, layout, ())


def noise_clip(vlm: VLM, prompt: Prompt) -> Clip:
    """Noise of the shapes of CLIP's embeddings: every patch, and one text."""
    width, generator = vlm.model.config.vision_config.projection_dim, torch.Generator()
    image, text = (
        torch.randn(count, width, generator=generator.manual_seed(seed)).to(vlm.device, vlm.dtype)
        for seed, count in ((2, prompt.layout.num_visual), (3, 1))
    )
    return Clip(image, text)
