"""The named models: where their files are, how large they are, and under which licence."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from visipruner.choice import short_title
from visipruner.files import ROOT
from visipruner.inputs import check_choice
from visipruner.methods import PruningMethod
from visipruner.models import clip, hub
from visipruner.models.memory import gigabytes
from visipruner.tower import needs_tower

ASSETS = ROOT / "assets"


@dataclass(frozen=True)
class ModelSpec:
    """One checkpoint: where it is and how the page describes it."""

    name: str
    title: str
    path: str = ""  # empty: on the hub
    repo: str = ""
    size: int = 0  # bytes of a hub checkpoint, all in 16 bits
    licence: str = ""  # of a hub checkpoint, by its public page
    has_clip: bool = False  # is its vision tower that of models/clip.py?
    cls_trained: bool = True  # did training reach the tower's class token where methods read it?
    drawn: bool = False  # was it trained on the drawn world (visipruner/world)?
    reads_by: int | None = None  # by this layer it has read most of a drawn scene, as measured

    def serves(self, kind: type[PruningMethod]) -> str:
        """Why no model of this checkpoint can be pruned by a method; empty: it may be.

        Known before the checkpoint is on this machine.
        """
        if "clip_text" not in kind.needs or self.has_clip:
            return ""
        able = " and ".join(spec.title for spec in MODELS.values() if spec.has_clip)
        return (
            f"{short_title(kind.name)} needs {clip.TITLE}'s embedding of the question, which fits "
            f"only that CLIP's own vision tower: {able} have it, {self.title} is not known to."
        )

    def untrained(self, methods: Iterable[PruningMethod]) -> list[str]:
        """The titles of the methods whose score means nothing here: it was never trained."""
        if self.cls_trained:
            return []
        names = (method.name for method in methods if needs_tower([method]))
        return [short_title(name) for name in dict.fromkeys(names)]

    def find(self) -> Path | None:
        """The folder with its files; None: not downloaded yet."""
        if self.path:
            return Path(self.path)
        return self.on_shelf() or hub.find(self.repo)

    def on_shelf(self) -> Path | None:
        """Its folder in VISIPRUNER_MODEL_DIR."""
        shelf = os.environ.get("VISIPRUNER_MODEL_DIR")
        for name in (self.name, self.repo.split("/")[-1]):
            if shelf and os.path.isdir(folder := Path(shelf, name)):
                return folder
        return None

    @property
    def download_size(self) -> str:
        return gigabytes(self.size)


# The hub's, ascending by size: sizes follow from shapes.py, names and licences were read in public
# pages. No real file of them was tried here.
_MODELS = (
    ModelSpec(
        "tiny",
        "tiny-llava (bundled)",
        str(ASSETS / "tiny-llava"),
        cls_trained=False,
        drawn=True,
        reads_by=4,
    ),
    ModelSpec(
        "tiny-aligned",
        "tiny-aligned (bundled)",
        str(ASSETS / "tiny-aligned"),
        cls_trained=False,
        drawn=True,
    ),
    ModelSpec(
        "smolvlm-256m",
        "SmolVLM 256M",
        repo="HuggingFaceTB/SmolVLM-256M-Instruct",
        size=513_000_000,
        licence="Apache-2.0",
    ),
    ModelSpec(
        "smolvlm-500m",
        "SmolVLM 500M",
        repo="HuggingFaceTB/SmolVLM-500M-Instruct",
        size=1_015_000_000,
        licence="Apache-2.0",
    ),
    ModelSpec(
        "llava-interleave-0.5b",
        "LLaVA-Interleave 0.5B",
        repo="llava-hf/llava-interleave-qwen-0.5b-hf",
        size=1_728_000_000,
        licence="Tongyi Qianwen research licence",
    ),
    ModelSpec(
        "llava-onevision-0.5b",
        "LLaVA-OneVision 0.5B",
        repo="llava-hf/llava-onevision-qwen2-0.5b-ov-hf",
        size=1_787_000_000,
        licence="Apache-2.0",
    ),
    ModelSpec(
        "internvl3.5-1b",
        "InternVL3.5 1B",
        repo="OpenGVLab/InternVL3_5-1B-HF",
        size=2_122_000_000,
        licence="Apache-2.0",
    ),
    ModelSpec(
        "tiny-llava-1.4b",
        "TinyLLaVA 1.4B",
        repo="bczhou/tiny-llava-v1-hf",
        size=2_820_000_000,
        licence="Apache-2.0",
    ),
    ModelSpec(
        "qwen3-vl-2b",
        "Qwen3-VL 2B",
        repo="Qwen/Qwen3-VL-2B-Instruct",
        size=4_255_000_000,
        licence="Apache-2.0",
    ),
    ModelSpec(
        "qwen2.5-vl-3b",
        "Qwen2.5-VL 3B",
        repo="Qwen/Qwen2.5-VL-3B-Instruct",
        size=7_509_000_000,
        licence="Qwen research licence, not for commercial use",
    ),
    ModelSpec(
        "llava-1.5-7b",
        "LLaVA-1.5 7B",
        repo="llava-hf/llava-1.5-7b-hf",
        size=14_130_000_000,
        licence="Llama 2 licence",
        has_clip=True,
    ),
    ModelSpec(
        "llava-1.6-7b",
        "LLaVA-1.6 7B",
        repo="llava-hf/llava-v1.6-vicuna-7b-hf",
        size=14_130_000_000,
        licence="Llama 2 licence",
    ),
    ModelSpec(
        "llava-1.5-13b",
        "LLaVA-1.5 13B",
        repo="llava-hf/llava-1.5-13b-hf",
        size=26_700_000_000,
        licence="Llama 2 licence",
        has_clip=True,
    ),
)
MODELS: dict[str, ModelSpec] = {spec.name: spec for spec in _MODELS}


def menu() -> dict[str, ModelSpec]:
    """The models that a server offers: those named in VISIPRUNER_MODELS, else all.

    Without that variable, a Space offers only what is on its disk: its visitors must not start
    downloads that its owner did not choose.

    Raises:
        Refused: an unknown name in the variable.
    """
    wanted = os.environ.get("VISIPRUNER_MODELS", "").replace(",", " ").split()
    for name in wanted:
        check_choice("every name in VISIPRUNER_MODELS", name, MODELS)
    if wanted:
        return {name: MODELS[name] for name in wanted}
    public = bool(os.environ.get("SPACE_ID"))  # the hub sets it in every Space
    return {name: spec for name, spec in MODELS.items() if not public or spec.find()}
