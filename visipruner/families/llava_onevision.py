"""LLaVA-OneVision: as LLaVA-NeXT, with SigLIP; the patches of many crops are resampled to fewer."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from transformers import LlavaOnevisionForConditionalGeneration, LlavaOnevisionProcessor

from visipruner.errors import Refused
from visipruner.families.llava import patch_grid
from visipruner.families.llava_next import LlavaNext, check_canvases
from visipruner.families.native import Native
from visipruner.files import named
from visipruner.stock import open_without_video

ANYRES = "anyres_max_"  # of `vision_aspect_ratio`; then the number of crops


class LlavaOnevision(LlavaNext):
    """LLaVA-OneVision with one picture."""

    title = "LLaVA-OneVision"
    kinds = {"llava_onevision": LlavaOnevisionForConditionalGeneration}
    processor = LlavaOnevisionProcessor
    lacks = {
        "tower": "its SigLIP tower has no class token",
        "grid": "its visual tokens are rows of patches with an end each, after the whole picture",
    }

    def open_processor(self, path: Path) -> LlavaOnevisionProcessor:
        return open_without_video(LlavaOnevisionProcessor, path)

    def fit(self, path: Path, processor: LlavaOnevisionProcessor, model):
        config = model.config
        most = str(config.vision_aspect_ratio).removeprefix(ANYRES)
        if not most.isdecimal() or int(most) < 1:
            raise Refused(
                f"In {named(path)}, vision_aspect_ratio must be {ANYRES} and a number, not "
                f"{str(config.vision_aspect_ratio)[:80]!r}."
            )
        processor.num_image_tokens = math.prod(patch_grid(config))
        processor.vision_feature_select_strategy = config.vision_feature_select_strategy
        processor.vision_aspect_ratio = config.vision_aspect_ratio
        check_canvases(path, processor, config)
        Native.fit(self, path, processor, model)

    def sample(self, config, ids: torch.Tensor) -> dict[str, torch.Tensor]:
        made = super().sample(config, ids)
        return {**made, "batch_num_images": torch.tensor([1])}

    def system(self, processor, own: str | None) -> str:
        return Native.system(self, processor, own)

    def most_crops(self, config) -> int:
        return int(config.vision_aspect_ratio.removeprefix(ANYRES))
