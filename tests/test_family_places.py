"""Where each visual token looks, found without a formula.

A picture whose colours are coordinates goes through the true image processor. In a tower whose
attention adds nothing, the gradients of a visual token show which pixels it reads; their colours
say where in the picture they lie.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from family_models import MINIS, VARIANTS
from PIL import Image

from visipruner.models.catalogue import load_vlm
from visipruner.stock import picture_features

SIZES = [(90, 60), (60, 90), (50, 50), (301, 40), (60, 230)]
ALL = {name: mini for name, mini in {**MINIS, **VARIANTS}.items() if not mini.padded}
INSIDE = 128  # the blue of every pixel; what a processor adds has another


def coordinates(width: int, height: int) -> Image.Image:
    """Red grows from 0 at the left to 255 at the right, green from top to bottom."""
    x = (np.arange(width) + 0.5) / width * 255
    y = (np.arange(height) + 0.5) / height * 255
    red, green = np.broadcast_to(x, (height, width)), np.broadcast_to(y[:, None], (height, width))
    pixels = np.stack([red, green, np.full((height, width), INSIDE)], -1)
    return Image.fromarray(pixels.round().astype(np.uint8))


@pytest.fixture(scope="module")
def without_attention(tmp_path_factory):
    """name -> a loaded miniature whose tower's attention adds nothing; made once."""
    made = {}

    def get(name):
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            vlm = made[name] = load_vlm(ALL[name].save(folder), device="cpu")
            out = [m for n, m in vlm.parts.tower.named_modules() if n.endswith(ALL[name].output)]
            assert out
            for module in out:
                torch.nn.init.zeros_(module.weight)
                torch.nn.init.zeros_(module.bias)
        return made[name]

    return get


def influence_of_pixels(vlm, prompt) -> torch.Tensor:
    """(visual tokens, ...pixel_values' shape): how strongly each token depends on each number."""
    pixels = prompt.inputs["pixel_values"].clone().requires_grad_()
    features = picture_features(vlm.model, {**prompt.inputs, "pixel_values": pixels})
    tokens = torch.cat([part.flatten(0, -2) for part in features.pooler_output])
    weights = torch.randn(tokens.shape[1], generator=torch.Generator().manual_seed(0))
    grad = torch.autograd.grad
    return torch.stack(
        [grad(token @ weights, pixels, retain_graph=True)[0].abs() for token in tokens]
    )


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", ALL)
def test_boxes_are_where_tokens_look(name, size, without_attention):
    vlm, mini = without_attention(name), ALL[name]
    prompt = vlm.prepare(coordinates(*size), "what?")
    depends = influence_of_pixels(vlm, prompt)
    assert len(depends) == prompt.layout.num_visual
    images = vlm.processor.image_processor
    colours = mini.channels_last(prompt.inputs["pixel_values"]).double()
    colours = colours * torch.tensor(images.image_std) + torch.tensor(images.image_mean)
    of_picture = (colours[..., 2] * 255 - INSIDE).abs() < 12  # pixels that are no padding
    boxes = {
        token: np.array(sheet.boxes[token]) / (size * 2)
        for sheet in prompt.sheets
        for token in sheet.placed
    }
    for token, strength in enumerate(depends):
        strength = mini.channels_last(strength).sum(-1) * of_picture
        if token not in boxes:
            assert not strength.any()  # the end of a line
            continue
        read, weight = colours[strength > 0][:, :2].numpy(), strength[strength > 0].numpy()
        box = boxes[token]
        # The colour of a pixel is that of its middle, and colours are in 8 bits.
        model_pixel = (box[2:] - box[:2]) / mini.patch
        if not mini.resampled:
            found = np.concatenate([read.min(0), read.max(0)])
            allowed = 1.3 * np.tile(model_pixel, 2) + 2 / 255
            assert (np.abs(found - box) <= allowed).all(), (token, found, box)
        middle = (box[:2] + box[2:]) / 2
        # Of a token that mixes patches, the middle is that of their shares.
        weight = weight if mini.resampled else np.ones_like(weight)
        found = (read * weight[:, None]).sum(0) / weight.sum()
        assert (np.abs(found - middle) <= 0.6 * model_pixel + 1 / 255).all(), (token, found, middle)
