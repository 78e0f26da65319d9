"""The base of families whose own processor fits the picture and writes the placeholders."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from PIL import Image, ImageOps
from transformers import PreTrainedModel

from visipruner.errors import Refused
from visipruner.families.base import CROP, PAD, Encoded, Family, Parts
from visipruner.files import named
from visipruner.inputs import check_choice, open_picture
from visipruner.layout import TokenLayout
from visipruner.prompt import Prompt, encoded, read_question
from visipruner.sheets import Box, Sheet, grid_boxes
from visipruner.stock import (
    count_features,
    find_decoder,
    picture_features,
    projector_of,
    tower_of,
)
from visipruner.templates import given_sentence, prompt_text

WHOLE, TILES = "whole picture", "in tiles"  # names of sheets
# A small picture whose sides differ: checkpoints are tried on it before a visitor asks.
TRIED = (60, 40)
MANY = 4_000  # visual tokens of a picture, from which on a note says so

Grid = tuple[int, int]


class Native(Family):
    """A family whose own processor fits the picture: it may cut it into tiles of any number."""

    picture_modes = (PAD, CROP)  # CROP: a square from the picture's middle goes to the processor
    not_in_4_bit = ("model.vision_tower", "model.multi_modal_projector", "lm_head")
    lacks = {
        "tower": "its methods read one picture's class token from a CLIP tower",
        "grid": "its visual tokens are not rows of patches alone",
    }

    def places(
        self, config, processor, picture: Image.Image, inputs: Mapping
    ) -> tuple[tuple[Sheet, ...], tuple[Grid, ...]]:
        """(sheets, grids): where each visual token of a prompt looks.

        Args:
            picture: as it goes to the processor.
            inputs: the processor's outputs.

        Returns:
            The sheets; and (rows, columns) of patches of each part of the picture, if these are all
            visual tokens in order, else ().
        """
        raise NotImplementedError

    def fit(self, path: Path, processor, model: PreTrainedModel):
        prompt = self.prepare(model.config, processor, Image.new("RGB", TRIED), "what?")
        if not all(part.isfinite().all() for part in prompt.inputs.values()):
            raise Refused(
                f"In {named(path)}, the image processor's image_mean and image_std make numbers "
                "that are infinite."
            )
        made, visual = self.count(model, prompt), prompt.layout.num_visual
        if made != visual:
            raise Refused(
                f"In {named(path)}, the processor's settings give a picture of {TRIED[0]} x "
                f"{TRIED[1]} pixels {visual} visual tokens, but the model makes {made} of it."
            )

    @torch.no_grad()
    def count(self, model: PreTrainedModel, prompt: Prompt) -> int:
        """Visual tokens that a model makes of a prompt's picture; it may be on the meta device."""
        inputs = {
            # Whole numbers, such as sizes, are read; only the pixels are computed with.
            name: tensor.to("meta") if tensor.is_floating_point() else tensor
            for name, tensor in prompt.inputs.items()
        }
        return count_features(picture_features(model, inputs))

    def parts(self, model: PreTrainedModel) -> Parts:
        head = model.get_output_embeddings()
        return Parts(find_decoder(model), head, tower_of(model), projector_of(model))

    def system(self, processor, own: str | None) -> str:
        """The system sentence; by default the checkpoint's own, else the template's."""
        return "" if own is None else given_sentence(processor, own)

    def prepare(
        self,
        config,
        processor,
        picture,
        question: str,
        mode: str | None = None,
        system: str | None = None,
        reword: Callable[[str], str] = str,
    ) -> Prompt:
        mode = self.picture_modes[0] if mode is None else mode
        check_choice("picture mode", mode, self.picture_modes)
        picture = open_picture(picture)
        self.check_picture(picture)
        if mode == CROP:
            picture = ImageOps.fit(picture, (min(picture.size),) * 2)
        question, plain, notes = read_question(processor, question, reword)
        text = self.text(processor, plain, self.system(processor, system))
        inputs = encoded(processor, picture, text)
        sheets, grids = self.places(config, processor, picture, inputs)
        layout = TokenLayout.from_ids(inputs["input_ids"], config.image_token_id).with_grids(grids)
        if layout.num_visual > MANY:
            notes.append(
                f"This picture becomes {layout.num_visual:,} visual tokens, which takes long and "
                "much memory; a smaller picture makes fewer."
            )
        return Prompt(question, text, inputs, layout, sheets, notes=tuple(notes))

    def check_picture(self, picture: Image.Image):
        """Refuse a picture that the processor cannot take.

        Raises:
            Refused: one sentence.
        """

    def text(self, processor, question: str, system: str) -> str:
        """The whole prompt with one picture word."""
        return prompt_text(processor, question, system)

    def encode(self, model: PreTrainedModel, prompt: Prompt, note_tower: bool = False) -> Encoded:
        return Encoded(picture_features(model, prompt.inputs))


# -- boxes of tiles


def tile_boxes(size: tuple[int, int], tiles: Grid, patches: Grid) -> tuple[Box, ...]:
    """Boxes tile by tile, the tiles row by row, and row by row in each tile.

    Args:
        size: width and height of the picture in pixels.
        tiles: rows and columns of tiles; patches: rows and columns of visual tokens in each.
    """
    (down, across), (rows, columns) = tiles, patches
    boxes = grid_boxes(size, down * rows, across * columns)
    return tuple(
        boxes[(y * rows + row) * across * columns + x * columns + column]
        for y in range(down)
        for x in range(across)
        for row in range(rows)
        for column in range(columns)
    )


def in_order(
    picture: Image.Image, parts: Sequence[tuple[str, Sequence[Box | None]]]
) -> tuple[Sheet, ...]:
    """A sheet for each part of the visual tokens, in their order; parts without tokens get none.

    Args:
        parts: each part's name, and a box or None for each of its tokens.
    """
    total, before, sheets = sum(len(boxes) for _, boxes in parts), 0, []
    for name, boxes in parts:
        after = total - before - len(boxes)
        if any(boxes):
            sheets.append(Sheet(name, picture, (None,) * before + tuple(boxes) + (None,) * after))
        before += len(boxes)
    if len(sheets) == 1:  # the only picture needs no name
        return (Sheet("", picture, sheets[0].boxes),)
    return tuple(sheets)
