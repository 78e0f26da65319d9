"""A loaded model with its processor, and how one is found and loaded."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import torch
from transformers import PreTrainedModel

from visipruner import decoding
from visipruner.choice import Side, methods_of, read_presets, read_presets_file
from visipruner.errors import Refused
from visipruner.families import FAMILIES, Encoded, Family, Parts, family_of
from visipruner.files import shown
from visipruner.levels import Facts
from visipruner.methods import PruningMethod
from visipruner.methods.trained import Trained
from visipruner.models import clip, hub, loading
from visipruner.models.checkpoint import size_in_16_bit
from visipruner.models.presets import check_made_for, find_presets
from visipruner.models.processor import load_processor, try_prompt
from visipruner.models.specs import ASSETS, MODELS, ModelSpec
from visipruner.prompt import Prompt
from visipruner.tower import Clip

PICTURE_MODES = tuple(dict.fromkeys(m for f in FAMILIES.values() for m in f.picture_modes))


@dataclass
class VLM:
    """A loaded model with its processor. Hooks are on the model, so every run holds `lock`."""

    spec: ModelSpec
    model: PreTrainedModel
    processor: object
    precision: str = "float32"
    presets: dict | None = None  # the checkpoint's own settings and system sentence (choice.py)
    lock: threading.Lock = field(default_factory=threading.Lock)
    warm: set[int] = field(default_factory=set)  # prompt lengths that have run once
    runs: int = 0  # finished comparisons: it decides which side goes first
    embedder: clip.Embedder | None = None  # CLIP, once a method needs it

    @cached_property
    def schedule(self) -> Trained | None:
        """The layers that the model was trained to compute visual tokens in; None: in all."""
        return Trained.of(self.presets or {})

    def stack(self, side: Side) -> Side:
        """What runs for a side: its methods, then the model's own schedule, if it has one.

        The schedule comes last, so that methods before the language model choose among all tokens.
        """
        return side if self.schedule is None else (*methods_of(side), self.schedule)

    @property
    def device(self) -> torch.device:
        """The device of the prompt. With several devices, accelerate's hooks move it on."""
        embeddings = self.model.get_input_embeddings()
        place = getattr(getattr(embeddings, "_hf_hook", None), "execution_device", None)
        return embeddings.weight.device if place is None else torch.device(place)

    @cached_property
    def devices(self) -> list[torch.device]:
        """Every device that holds a part of the model; cached, because the clocks read it often."""
        places = {parameter.device for parameter in self.model.parameters()} | {self.device}
        return sorted((d for d in places if d.type != "meta"), key=str)

    @property
    def size(self) -> int:
        """Bytes of the weights in memory."""
        return self.model.get_memory_footprint()

    @property
    def dtype(self) -> torch.dtype:
        return self.parts.lm_head.weight.dtype

    @property
    def family(self) -> Family:
        """The family of this model."""
        return family_of(self.model.config.model_type)

    @property
    def parts(self) -> Parts:
        """Where this model keeps its decoder, head, tower and projector."""
        return self.family.parts(self.model)

    def facts(self, num_visual: int | None = None) -> Facts:
        """The facts that translate a level into settings for this model.

        Args:
            num_visual: visual tokens of the prompt; None: of one picture.
        """
        layers = self.model.config.get_text_config().num_hidden_layers
        count = num_visual or self.family.tokens(self.model.config)
        grids = self.family.grids(self.model.config, count)
        own = self.schedule or Trained()
        span = own.enter or 0, own.leave
        return Facts(count, layers, self.presets, grids, self.family.renumbers, *span)

    def prepare(self, picture, question: str, mode: str | None = None, reword=str) -> Prompt:
        """`Family.prepare` for this model, with the system sentence that it was trained with."""
        system = (self.presets or {}).get("system")
        made = self.family.prepare(
            self.model.config, self.processor, picture, question, mode, system, reword
        )
        notes = made.notes + decoding.notes(self.model)
        return replace(made, notes=notes + (self.schedule.notes if self.schedule else ()))

    @torch.inference_mode()
    def encode(self, prompt: Prompt, note_tower: bool = False) -> Encoded:
        """Picture features, once for all methods.

        Args:
            note_tower: also note what methods that read the vision tower need.
        """
        there = {
            name: tensor.to(self.device, self.dtype if tensor.is_floating_point() else None)
            for name, tensor in prompt.inputs.items()
        }
        return self.family.encode(self.model, replace(prompt, inputs=there), note_tower)

    def serves(self, kind: type[PruningMethod]) -> str:
        """Why this model cannot be pruned by a method, in one sentence; empty: it can.

        It costs nothing, and does not ask whether CLIP was downloaded.
        """
        own = self.schedule.serves(kind, self.facts()) if self.schedule else ""
        return self.family.serves(kind) or self.spec.serves(kind) or own

    def load_clip(self):
        """Load CLIP for methods that need it. Never downloads.

        Raises:
            Refused: one sentence: it is not on this machine, or does not fit this model.
        """
        if self.embedder is None:
            self.embedder = clip.load(clip.found(), self.model, self.device)

    def clip_of(self, prompt: Prompt, encoded: Encoded) -> Clip:
        """CLIP's embeddings of a prompt's picture and question.

        Args:
            encoded: from `encode` with `note_tower`.
        """
        self.load_clip()
        return self.embedder.embed(encoded.tower, prompt.question)


def load_vlm(
    model: str | Path = "tiny",
    *,
    device: str | None = None,
    precision: str = "auto",
    attention: str = "sdpa",
    on_progress: Callable[[hub.Progress], None] | None = None,
    presets: Path | None = None,
) -> VLM:
    """Load a model of MODELS by name, or any local folder with a checkpoint of a family.

    A hub model that is not on this machine is downloaded first; nothing else is fetched.

    Args:
        model: a name in MODELS, or a folder (safetensors only, no remote code); a `Path` is always
            a folder.
        device: "cpu", "cuda", "cuda:1"; None: the GPUs if torch finds any.
        precision: "auto" is bfloat16 on a GPU, and on a CPU that multiplies in it, else float32;
            small models stay in float32 on a CPU. "float32", "bfloat16", "float16"; "4-bit" is NF4
            by bitsandbytes.
        attention: the backend of transformers, "sdpa" or "eager".
        on_progress: called during a download; an exception that it raises cancels the download.
        presets: a file with VisiPruner's levels for it; None: as models/presets.py says.

    Raises:
        Refused: one plain sentence that says what is missing and what is needed.
    """
    spec = spec_of(model)
    path = spec.find()
    if spec.path and spec.drawn and not ASSETS.is_dir():
        raise Refused(f"{spec.title} comes with a clone of the repository; pip installs no model.")
    if path is None:
        # Check before gigabytes are fetched in vain.
        loading.place(spec.title, spec.size, device, precision)
        if presets:
            read_presets_file(presets, shown(presets))
        for progress in hub.download(spec.repo, spec.size):
            if on_progress:
                on_progress(progress)
        path = spec.find()
        if path is None:
            raise Refused(f"{spec.repo} was downloaded, but is not complete; try again.")
    processor, levels, placement = checked(spec, path, device, precision, presets)
    loaded = loading.load_model(path, placement, attention)
    found = replace(spec, path=str(path))
    vlm = VLM(found, loaded, processor, placement.precision, levels)
    if vlm.schedule:
        vlm.schedule.check_layers(vlm.facts().layers)
    try_prompt(path, vlm)
    _ = vlm.devices  # cached now: other threads of a ZeroGPU Space see all of it on the CPU
    return vlm


def checked(
    spec: ModelSpec,
    path: Path,
    device: str | None,
    precision: str,
    presets: Path | None = None,
) -> tuple[object, dict | None, loading.Placement]:
    """Check all of a folder that can be checked without reading its weights.

    Args:
        presets: a file with VisiPruner's levels for it; None: as models/presets.py says.

    Returns:
        Its processor, its presets, and where the model goes.

    Raises:
        Refused: one sentence.
    """
    family = loading.check_checkpoint(path)
    empty = loading.build_empty(path)
    processor = load_processor(path, empty, family)
    levels = find_presets(spec.name, read_presets(path), presets)
    layers = empty.config.get_text_config().num_hidden_layers
    check_made_for(levels, empty.config.model_type, layers, spec.title)
    return processor, levels, loading.place(spec.title, size_in_16_bit(path), device, precision)


def check_served(model: ModelSpec | VLM, kinds: Iterable[type[PruningMethod]]):
    """Check that a model can be pruned by all of these methods.

    Raises:
        Refused: one sentence about the first that it cannot serve.
    """
    for kind in kinds:
        if reason := model.serves(kind):
            raise Refused(reason)


def drawn(name) -> bool:
    """Was the model of this name in MODELS trained on the drawn world?"""
    return isinstance(name, str) and name in MODELS and MODELS[name].drawn


def spec_of(model: str | Path) -> ModelSpec:
    """The checkpoint of a name in MODELS, or of a folder.

    Raises:
        Refused: no such name or folder.
    """
    # A `Path` is never a name: a folder may be called llava-1.5-7b, like a hub checkpoint.
    return MODELS.get(model) or local_spec(Path(model))


def local_spec(path: Path) -> ModelSpec:
    # Unlike Path's method, this returns False for a name that is too long and a closed folder.
    if not os.path.isdir(path):
        raise Refused(
            f"There is no model {shown(path)}: choose one of {', '.join(MODELS)} or name a folder "
            "with a checkpoint."
        )
    name = path.absolute().resolve().name if path.name in ("", "..") else path.name  # such as "."
    return ModelSpec(name, name, str(path))
