"""The vision tower's own lesson: predict what every patch shows.

A CLIP tower of this size learns shapes slowly from scratch, because a patch must first find its
neighbours. Two things help: position channels made of sines and cosines, and first-layer attention
heads that at first attend to one neighbour each, as a convolution would
(Zheng et al., Structured Initialization for Vision Transformers). Both only set initial values:
every weight is trained.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from visipruner.errors import Refused
from visipruner.world.drawing import BACKGROUND, owners, paint, patch_owner
from visipruner.world.scenes import COLOURS, SHAPES, SIZES, Scene, Thing

WAVELENGTHS = (3.5, 6.0, 11.0, 30.0)  # in patches; enough to tell any two offsets of a grid apart
POSITION_CHANNELS = 4 * len(WAVELENGTHS)  # sine and cosine of row and column
REACH = (1, 2, 4, 2)  # initial reach of the heads of layer i, in patches
SHARPNESS = 2.5
AROUND = 4  # patches on each side in which a patch predicts the rest of its thing
CELLS = 4  # cells per side of a patch's own surface
OUTLINE = CELLS**2 + (2 * AROUND + 1) ** 2 + 2
IGNORE = -100
SMOOTHING = 0.05
CENTRE = 10  # weight of a centre, in patches: each thing has one, and counting uses it
LABELS = {  # number of classes of each question about a patch
    "colour": len(COLOURS) + 2,
    "shape": len(SHAPES) + 2,
    "size": len(SIZES) + 2,
    "digit": 10,
    "centre": 2,
}


def position_code(grid: int) -> torch.Tensor:
    """Sines and cosines of each patch's row and column.  # (patch, channel)"""
    place = torch.arange(grid, dtype=torch.float32)
    angle = 2 * math.pi * place[:, None] / torch.tensor(WAVELENGTHS)
    code = torch.cat([angle.sin(), angle.cos()], dim=1)  # (place, 2 * wavelength)
    row = code[:, None].expand(grid, grid, -1)
    column = code[None].expand(grid, grid, -1)
    return torch.cat([row, column], dim=-1).flatten(0, 1)


def slow_waves(patch: int, colours: int, channels: int) -> torch.Tensor:
    """The slowest cosine waves over a patch, for each colour in turn.

    Random filters would start with fine noise, which the world's shapes lack.
    # (channel, colour, row, column)
    """
    place = (torch.arange(patch) + 0.5) * math.pi / patch
    order = sorted((u + v, u, v) for u in range(patch) for v in range(patch))
    waves = torch.zeros(channels, colours, patch, patch)
    for channel in range(channels):
        _, u, v = order[channel // colours]
        wave = (u * place).cos()[:, None] * (v * place).cos()[None]
        waves[channel, channel % colours] = wave / wave.norm() / math.sqrt(patch)
    return waves


def _shift(rows: int, columns: int) -> torch.Tensor:
    """The matrix that turns the code of a patch into the code of its neighbour."""
    turns = []
    for steps in (rows, columns):
        angle = 2 * math.pi * steps / torch.tensor(WAVELENGTHS)
        sin, cos = torch.diag(angle.sin()), torch.diag(angle.cos())
        turns.append(torch.cat([torch.cat([cos, sin], 1), torch.cat([-sin, cos], 1)], 0))
    return torch.block_diag(*turns)


@torch.no_grad()
def look_at_neighbours(tower: nn.Module) -> None:
    """Initialise the tower as described above. Heads must be as wide as the position code."""
    config = tower.config
    width, heads = config.hidden_size, config.num_attention_heads
    head_width = width // heads
    if head_width != POSITION_CHANNELS:
        raise Refused(f"heads are {head_width} wide: {POSITION_CHANNELS} needed")
    embeddings = tower.embeddings
    grid = config.image_size // config.patch_size
    embeddings.position_embedding.weight.zero_()
    embeddings.position_embedding.weight[1:, :POSITION_CHANNELS] = position_code(grid)
    embeddings.class_embedding[:POSITION_CHANNELS] = 0
    embeddings.patch_embedding.weight.zero_()
    waves = slow_waves(config.patch_size, config.num_channels, width - POSITION_CHANNELS)
    embeddings.patch_embedding.weight[POSITION_CHANNELS:] = waves
    ring = [(r, c) for r in (-1, 0, 1) for c in (-1, 0, 1) if r or c]
    for layer, reach in zip(tower.encoder.layers, REACH, strict=False):
        attention = layer.self_attn
        for head in range(heads):
            rows, columns = ring[head % len(ring)]
            span = slice(head * head_width, (head + 1) * head_width)
            own = slice(0, POSITION_CHANNELS)
            scale = math.sqrt(SHARPNESS) * head_width**0.25
            attention.k_proj.weight[span, own] = scale * torch.eye(POSITION_CHANNELS)
            attention.q_proj.weight[span, own] = scale * _shift(rows * reach, columns * reach)
    for layer in tower.encoder.layers:
        layer.self_attn.out_proj.weight[:POSITION_CHANNELS] = 0
        layer.mlp.fc2.weight[:POSITION_CHANNELS] = 0


class PatchHeads(nn.Module):
    """One linear classifier per question on the tower's features; for training only."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        sizes = {**LABELS, "outline": OUTLINE}
        self.read = nn.ModuleDict({name: nn.Linear(width, n) for name, n in sizes.items()})

    def forward(self, features: torch.Tensor) -> dict[str, torch.Tensor]:
        features = self.norm(features)
        return {name: head(features) for name, head in self.read.items()}


def centre_patch(thing: Thing, scene: Scene, patch: int) -> int:
    """The number of the patch that contains a thing's centre."""
    return int(thing.y // patch) * (scene.side // patch) + int(thing.x // patch)


def patch_labels(scene: Scene, patch: int) -> dict[str, np.ndarray]:
    """What every patch shows: per question, such as "colour", an array of classes (patches,)."""
    owner = owners(scene)
    cells = patch_owner(owner, patch, len(scene.things)).ravel()
    centres = [centre_patch(thing, scene, patch) for thing in scene.things]
    for number, centre in enumerate(centres):
        if cells[centre] == BACKGROUND:  # the hole of a ring or a moon belongs to it
            cells[centre] = number
    colours, shapes, sizes = list(COLOURS), list(SHAPES), list(SIZES)
    per_thing = np.array(
        [
            (len(colours), len(shapes), len(sizes), t.digit)
            if t.is_digit
            else (
                IGNORE if scene.motley else colours.index(t.colour),
                shapes.index(t.shape),
                sizes.index(t.size),
                IGNORE,
            )
            for t in scene.things
        ]
        + [(len(colours) + 1, len(shapes) + 1, len(sizes) + 1, IGNORE)]  # index -1: the ground
    )
    labels = dict(zip(("colour", "shape", "size", "digit"), per_thing[cells].T, strict=True))
    labels["outline"] = outline(scene, owner, cells, patch)
    labels["centre"] = np.where(cells == BACKGROUND, IGNORE, 0)
    labels["centre"][centres] = 1
    return labels


def outline(scene: Scene, owner: np.ndarray, cells: np.ndarray, patch: int) -> np.ndarray:
    """For the thing at each patch: its cover of the patch, of the patches around, and its centre.

    The name alone teaches slowly; these values teach piece by piece what makes a shape.
    # (patch, OUTLINE) float32
    """
    side, rows = scene.side, scene.side // patch
    edges = np.arange(rows * CELLS) * patch // CELLS  # cells are 3 or 4 pixels wide
    cover = np.stack([owner == number for number in range(len(scene.things))]).astype(np.float32)
    fine = cover[:, edges][:, :, edges]  # one pixel stands for its cell
    fine = fine.reshape(-1, rows, CELLS, rows, CELLS).transpose(0, 1, 3, 2, 4)
    coarse = cover.reshape(-1, rows, patch, rows, patch).mean(axis=(2, 4))
    padded = np.pad(coarse, ((0, 0), (AROUND, AROUND), (AROUND, AROUND)))
    around = np.lib.stride_tricks.sliding_window_view(padded, (2 * AROUND + 1,) * 2, axis=(1, 2))
    row, column = np.divmod(np.arange(rows * rows), rows)
    centres = np.array([(t.y, t.x) for t in scene.things], np.float32)[cells]
    own = (np.stack([row, column], axis=1) + 0.5) * patch
    parts = (
        fine[cells, row, column].reshape(len(cells), -1),
        around[cells, row, column].reshape(len(cells), -1),
        (centres - own) / side * 4,
    )
    return np.concatenate(parts, axis=1).astype(np.float32)


def window_features(tower: nn.Module, pixels: torch.Tensor, corners: torch.Tensor) -> torch.Tensor:
    """Features of pictures smaller than the tower's, placed at `corners` of its grid.

    pixels (picture, 3, height, width), corners (picture, 2) in patches -> (picture, patch, width).
    """
    embeddings = tower.embeddings
    cells = embeddings.patch_embedding(pixels)  # (picture, width, row, column)
    side, grid = cells.shape[-1], tower.config.image_size // tower.config.patch_size
    rows = corners[:, :1] + torch.arange(side, device=pixels.device)  # (picture, row)
    columns = corners[:, 1:] + torch.arange(side, device=pixels.device)
    places = (1 + rows[:, :, None] * grid + columns[:, None, :]).flatten(1)
    patches = cells.flatten(2).transpose(1, 2) + embeddings.position_embedding(places)
    first = embeddings.class_embedding + embeddings.position_embedding.weight[0]
    tokens = torch.cat([first.expand(len(pixels), 1, -1), patches], dim=1)
    hidden = tower.encoder(inputs_embeds=tower.pre_layrnorm(tokens)).last_hidden_state
    return hidden[:, 1:]


def patch_loss(logits: dict, labels: dict) -> tuple[torch.Tensor, dict[str, float]]:
    """Sum of the cross entropies, and the accuracy on patches that show a thing."""
    loss, right = 0.0, {}
    shown = labels["shape"] < len(SHAPES)  # excludes digit cards and ground
    for name, scores in logits.items():
        if name == "outline":
            loss = loss + 3 * outline_loss(scores, labels)
            continue
        weight = None
        if name != "digit" and name != "centre":
            weight = torch.ones(LABELS[name], device=scores.device)
            weight[-1] = 0.3  # most patches show the ground
        target = labels[name]
        if (target != IGNORE).any():
            # Smoothed; otherwise the tower would learn that unseen pairs are impossible.
            losses = F.cross_entropy(
                scores.transpose(1, 2), target, weight, reduction="none", label_smoothing=SMOOTHING
            )
            share = 1.0 + (CENTRE - 1) * (labels["centre"] == 1)
            total = share if weight is None else share * weight[target.clamp(min=0)]
            loss = loss + (losses * share).sum() / (total * (target != IGNORE)).sum()
            seen = (target != IGNORE) & (shown | (labels["digit"] != IGNORE) & (name == "digit"))
            right[name] = (scores.argmax(-1) == target)[seen].float().mean().item()
    return loss, right


def outline_loss(scores: torch.Tensor, labels: dict) -> torch.Tensor:
    """The error of the outlines, on patches that show a thing."""
    inside = labels["centre"] != IGNORE
    scores, wanted = scores[inside], labels["outline"][inside]
    cover = F.binary_cross_entropy_with_logits(scores[:, :-2], wanted[:, :-2])
    return cover + F.smooth_l1_loss(scores[:, -2:], wanted[:, -2:])


def label_batch(scenes: list[Scene], patch: int) -> dict[str, torch.Tensor]:
    """The labels of several scenes of one size.  # each (picture, patch)"""
    labels = [patch_labels(scene, patch) for scene in scenes]
    return {k: torch.from_numpy(np.stack([one[k] for one in labels])) for k in labels[0]}


def pixel_batch(scenes: list[Scene], pictures) -> torch.Tensor:
    """Pixels normalised as by the image processor.  # (picture, 3, row, column)"""
    pixels = torch.from_numpy(np.stack([paint(scene) for scene in scenes])).permute(0, 3, 1, 2)
    mean = torch.tensor(pictures.image_mean).view(3, 1, 1)
    return (pixels / 255 - mean) / torch.tensor(pictures.image_std).view(3, 1, 1)
