"""The four stages: what each trains, on what data, and its loss."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import nn

from visipruner.stock import rotated
from visipruner.training.batches import Packed, ask_many, keep_patches
from visipruner.training.grounding import LESSONS
from visipruner.training.vision import (
    IGNORE,
    label_batch,
    patch_loss,
    pixel_batch,
    position_code,
    window_features,
)
from visipruner.world.scenes import COLOURS, DIGIT, MAX_SHAPES, PLACES, SHAPES, SIZES, make_scene

FULL_FROM = 0.85  # of the tower's steps: from here on whole pictures
ALL_FROM = 0.6  # of the steps: from here on every visual token; only then does it learn to count
CURRICULUM = ((0.06, 2), (0.14, 3), (0.25, 5))  # (progress at which the limit ends, most shapes)
APART = 0.5  # weight of the distance between visual tokens and the words for them
MOTLEY = 3  # every third scene of a batch is motley; a batch of two has none
COUNTING = ((3, 3), (4, 3), (5, 2))  # layers and heads that attend equally to every counted thing
LOOKING = 1.0  # weight of that lesson
KEPT_PART = 6  # before ALL_FROM, keep 1 of 6 visual tokens


class WrittenScenes(nn.Module):
    """A scene written as words: each patch is the sum of the words that describe it.

    The language model trains on these before it meets a picture. The words are those of the
    questions, place included, in the language model's own embedding. A finer place code and a mark
    for the centre of a thing are added.
    """

    def __init__(self, tokenizer, config):
        super().__init__()
        width = config.text_config.hidden_size
        grid = config.vision_config.image_size // config.vision_config.patch_size
        self.register_buffer("code", position_code(grid), persistent=False)
        self.place = nn.Linear(self.code.shape[1], width, bias=False)
        self.centre = nn.Parameter(torch.zeros(width))
        nn.init.normal_(self.place.weight, std=0.02)
        nn.init.normal_(self.centre, std=0.07)
        self.nothing = tokenizer.pad_token_id  # its embedding is zero
        lists = {
            "colour": [*COLOURS, "<pad>", "<pad>"],
            "shape": [*SHAPES, DIGIT, "<pad>"],
            "size": [*SIZES, "<pad>", "<pad>"],
            "digit": [*map(str, range(10)), "<pad>"],
        }
        for name, words in lists.items():
            ids = [tokenizer.convert_tokens_to_ids(word) for word in words]
            self.register_buffer(name, torch.tensor(ids), persistent=False)
        rows = [PLACES[3 * row // grid] for row in range(grid)]
        places = [row[3 * column // grid] for row in rows for column in range(grid)]
        ids = torch.tensor([tokenizer.convert_tokens_to_ids(word) for word in places])
        self.register_buffer("where", ids, persistent=False)

    def forward(self, labels: dict[str, torch.Tensor], words: nn.Embedding) -> torch.Tensor:
        """Labels, each (picture, patch) -> stand-ins for visual tokens (picture, patch, width)."""
        total = self.place(self.code)[None]
        for name in ("colour", "shape", "size", "digit"):
            index = labels[name]
            index = torch.where(index == IGNORE, len(getattr(self, name)) - 1, index)
            ids = getattr(self, name)[index]
            total = total + words(ids) * (ids != self.nothing)[..., None]
        thing = labels["centre"] != IGNORE
        total = total + words(self.where) * thing[..., None]
        return total + self.centre * (labels["centre"] == 1)[..., None]


@dataclass(frozen=True)
class Stage:
    """One stage. `loss` gets the learner, a random source, the progress (0 to 1), options.

    `draw` gets the learner, the random source and options, and returns what `loss` then gets in
    place of the random source. It computes nothing on the learner's device, so that other
    processes can draw ahead. `check` gets the learner and returns what validation says, for the
    curve.
    """

    steps: int
    lr: float
    parts: Callable
    prefixes: tuple[str, ...]  # prefixes of the learner's weights that the stage changes
    loss: Callable
    check: Callable | None = None
    draw: Callable | None = None


def most_things(progress: float) -> int:
    """The curriculum: pictures hold more things as the stage goes on."""
    return next((most for until, most in CURRICULUM if progress < until), MAX_SHAPES)


def some_scenes(rng: random.Random, count: int, **rules) -> list:
    """New scenes; every other one holds things of few kinds."""
    return [
        make_scene(rng.randrange(1_000_000_000), alike=number % 2 == 1, **rules)
        for number in range(count)
    ]


def some_pictures(rng: random.Random, count: int, **rules) -> list:
    """Scenes to paint; every third has stripes or colours without a name."""
    scenes = some_scenes(rng, count, **rules)
    return [
        replace(scene, motley=number % MOTLEY == MOTLEY - 1) for number, scene in enumerate(scenes)
    ]


def ask_all(scenes: list, rng: random.Random, options) -> list:
    return [ask_many(scene, rng, favour=options.favour) for scene in scenes]


def answer_loss(learner, packed: Packed, visual: torch.Tensor) -> tuple[torch.Tensor, dict]:
    """Cross entropy of the answers, given the kept visual tokens."""
    language, device = learner.model.model.language_model, visual.device
    words = language.embed_tokens
    prefix = words(packed.prefix.to(device)).expand(len(visual), -1, -1)
    inputs = torch.cat([prefix, visual, words(packed.ids.to(device))], dim=1)
    outputs = language(
        inputs_embeds=inputs,
        position_ids=packed.positions.to(device),
        attention_mask=packed.allowed.to(device),
        use_cache=False,
        output_hidden_states=True,
    )
    length = packed.ids.shape[1]
    hidden = outputs.last_hidden_state[:, -length:]
    grounding = sum_of_lessons(learner.model, outputs.hidden_states, packed, length)
    looking = looking_loss(language, outputs.hidden_states, packed)
    targets, weights = packed.targets.to(device), packed.weights.to(device)
    asked = targets != IGNORE
    logits = learner.model.lm_head(hidden[asked])  # (answer token, word)
    losses = F.cross_entropy(logits, targets[asked], reduction="none")
    right = (logits.argmax(-1) == targets[asked]).float()
    seen = {"tokens_right": right.mean().item(), "first_right": first_right(right, weights[asked])}
    seen |= {"grounding": grounding.item(), "looking": looking.item()}
    answers = (losses * weights[asked]).sum() / weights.sum()
    return answers + grounding + LOOKING * looking, seen


def sum_of_lessons(model, states: tuple, packed: Packed, length: int) -> torch.Tensor:
    """The losses of grounding.py's lessons, from hidden states part of the way up."""
    depth, norm = len(states) - 1, model.model.language_model.norm
    total = states[0].new_zeros(())
    for lesson, meanings in zip(LESSONS, packed.lessons, strict=True):
        if len(meanings):
            picture, token, word = meanings.to(total.device).unbind(1)
            state = states[round(depth * lesson.depth)][:, -length:][picture, token]
            guesses = model.lm_head(norm(state)).log_softmax(-1)
            total = total - lesson.weight * guesses.gather(1, word[:, None]).mean()
    return total


def looking_loss(language, states: tuple, packed: Packed) -> torch.Tensor:
    """How far some heads are from attending equally to every thing that a word counts.

    Cross entropy minus its minimum, so 0 is perfect.
    """
    total, device = states[0].new_zeros(()), states[0].device
    if not len(packed.glances):
        return total
    picture, token = packed.glances.to(device).unbind(1)
    token = token + states[0].shape[1] - packed.ids.shape[1]
    allowed = packed.allowed.to(device)[picture, 0, token]
    wanted = packed.looks.to(device)
    turns = language.rotary_emb(states[0], packed.positions.to(device))
    for index, head in COUNTING:
        layer = language.layers[index]
        hidden = layer.input_layernorm(states[index])
        heads = (*hidden.shape[:2], -1, layer.self_attn.head_dim)
        projections = (layer.self_attn.q_proj, layer.self_attn.k_proj)
        query, key = (part(hidden).view(heads).transpose(1, 2) for part in projections)
        query, key = rotated(query, key, turns)
        scores = torch.einsum("gw,gkw->gk", query[picture, head, token], key[picture, head])
        scores = (scores * layer.self_attn.scaling).masked_fill(~allowed, float("-inf"))
        log_share = scores.log_softmax(-1)[:, : wanted.shape[1]]
        total = total - (torch.special.entr(wanted) + wanted * log_share).sum(-1).mean()
    return total / len(COUNTING)


def first_right(right: torch.Tensor, weights: torch.Tensor) -> float:
    """Accuracy on one-word answers and their end token: the purest measure of looking."""
    short = weights > 0.7  # a word and </s> weigh 1/sqrt(2) each
    return right[short][::2].mean().item()


def vision_loss(learner, rng: random.Random, progress: float, options) -> tuple:
    """The tower predicts what every patch shows, mostly on quarters of a picture."""
    side = learner.grid if progress >= FULL_FROM else learner.grid // 2
    count = options.pictures or 8
    count = count if side < learner.grid else max(1, count // 4)
    most = 3 if side < learner.grid else MAX_SHAPES
    scenes = some_pictures(rng, count, most=most, side=side * learner.patch)
    pixels = pixel_batch(scenes, learner.processor.image_processor)
    labels = label_batch(scenes, learner.patch)
    free = learner.grid - side
    corners = torch.tensor([[rng.randint(0, free), rng.randint(0, free)] for _ in scenes])
    device = learner.device
    tower = learner.model.model.vision_tower
    features = window_features(tower, pixels.to(device), corners.to(device))
    labels = {name: label.to(device) for name, label in labels.items()}
    loss, right = patch_loss(learner.heads(features), labels)
    return loss, {"loss": loss.item(), **right}


def language_loss(learner, rng: random.Random, progress: float, options) -> tuple:
    """The language model answers from scenes written as words."""
    scenes = some_scenes(rng, options.pictures or 6, most=most_things(progress), split="written")
    labels = label_batch(scenes, learner.patch)
    patches = choose_patches(labels, learner, rng, progress)
    packed = learner.packer.pack(scenes, ask_all(scenes, rng, options), patches)
    words = learner.model.model.language_model.embed_tokens
    labels = {name: label.to(learner.device) for name, label in labels.items()}
    visual = take(learner.written(labels, words), patches.to(learner.device))
    loss, seen = answer_loss(learner, packed, visual)
    return loss, {"loss": loss.item(), **seen}


def align_loss(learner, rng: random.Random, progress: float, options) -> tuple:
    """The projector alone: it maps visual tokens to the words that the language model has read."""
    scenes = some_pictures(rng, options.pictures or 6)
    pixels = pixel_batch(scenes, learner.processor.image_processor)
    labels = label_batch(scenes, learner.patch)
    labels = {name: label.to(learner.device) for name, label in labels.items()}
    with torch.no_grad():
        features = tower_features(learner, pixels.to(learner.device))
        meant = learner.written(labels, learner.model.model.language_model.embed_tokens)
    loss = distance(learner.model.model.multi_modal_projector(features), meant, labels)
    return loss, {"loss": loss.item()}


def distance(seen: torch.Tensor, meant: torch.Tensor, labels: dict) -> torch.Tensor:
    """Distance of visual tokens from their words; things weigh as much as the ground around."""
    thing = labels["centre"] != IGNORE
    weight = torch.where(thing, 1 / thing.sum(), 1 / (~thing).sum())
    return (((seen - meant) ** 2).mean(-1) * weight).sum() / (2 * meant[thing].var())


def joint_loss(learner, rng: random.Random, progress: float, options) -> tuple:
    """All parts together on pictures, and on half as many scenes written as words.

    The tower keeps its own loss, and its visual tokens stay close to those words. So the model
    understands in a picture what it has only read of (a red star, say).
    """
    scenes = some_pictures(rng, options.pictures or 4)
    read = some_scenes(rng, max(1, len(scenes) // 2), split="written")
    pixels = pixel_batch(scenes, learner.processor.image_processor).to(learner.device)
    labels = label_batch(scenes + read, learner.patch)
    patches = choose_patches(labels, learner, rng, progress)
    both = scenes + read
    packed = learner.packer.pack(both, ask_all(both, rng, options), patches)
    labels = {name: label.to(learner.device) for name, label in labels.items()}
    written = learner.written(labels, learner.model.model.language_model.embed_tokens)
    features = tower_features(learner, pixels)
    seen = learner.model.model.multi_modal_projector(features)
    shown = {name: label[: len(scenes)] for name, label in labels.items()}
    seen_patches, right = patch_loss(learner.heads(features), shown)
    visual = take(torch.cat([seen, written[len(scenes) :]]), patches.to(learner.device))
    loss, learnt = answer_loss(learner, packed, visual)
    apart = distance(seen, written[: len(scenes)].detach(), shown)
    total = loss + 0.1 * seen_patches + APART * apart
    return total, {"loss": loss.item(), "apart": apart.item(), **learnt, **right}


def tower_features(learner, pixels: torch.Tensor) -> torch.Tensor:
    """Features of whole pictures, as LlavaModel takes them.  # (picture, patch, width)"""
    corners = torch.zeros(len(pixels), 2, dtype=torch.long, device=pixels.device)
    return window_features(learner.model.model.vision_tower, pixels, corners)


def choose_patches(labels: dict, learner, rng: random.Random, progress: float) -> torch.Tensor:
    """A sixth of the visual tokens until ALL_FROM, then all of them.

    # (picture, kept)
    """
    total = learner.grid**2
    kept = total if progress >= ALL_FROM else total // KEPT_PART
    return keep_patches(labels, kept, rng)


def take(visual: torch.Tensor, patches: torch.Tensor) -> torch.Tensor:
    """The chosen rows of (picture, patch, width)."""
    return visual.gather(1, patches[..., None].expand(-1, -1, visual.shape[-1]))


STAGES = {
    "vision": Stage(
        6000,
        1.5e-3,
        lambda learner: [learner.model.model.vision_tower, learner.heads],
        ("model.model.vision_tower.", "heads."),
        vision_loss,
    ),
    "language": Stage(
        4000,
        8e-4,
        lambda learner: [
            learner.model.model.language_model,
            learner.model.lm_head,
            learner.written,
        ],
        ("model.model.language_model.", "model.lm_head.", "written."),
        language_loss,
    ),
    "align": Stage(
        300,
        3e-3,
        lambda learner: [learner.model.model.multi_modal_projector],
        ("model.model.multi_modal_projector.",),
        align_loss,
    ),
    "joint": Stage(
        2000,
        8e-4,
        lambda learner: [learner.model, learner.heads],
        ("model.", "heads.", "written."),  # written: unchanged, but exported with the rest
        joint_loss,
    ),
}
