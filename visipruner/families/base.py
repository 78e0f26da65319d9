"""The base of model families: all that differs between LLaVA-1.5 and another architecture.

The engine needs no family: it prunes any stock decoder. A family loads, asks, encodes, counts and
draws a model. A new family is one file here and one line in `FAMILIES`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from torch import Tensor, nn
from transformers import AutoProcessor, PreTrainedModel, ProcessorMixin

from visipruner.errors import Refused
from visipruner.methods.base import PruningMethod
from visipruner.prompt import Prompt
from visipruner.tower import Tower

# The whole picture, with a rim where the model needs one; or a square from its middle.
PAD, CROP = "pad", "crop"
# What methods may need of a model besides its language model, in words.
NEEDS = {
    "tower": "the tower's class token",
    "grid": "rows and columns of patches without gaps",
    "places": "positions that are plain numbers, to renumber what stays",
}


@dataclass(frozen=True)
class Parts:
    """The parts of a whole model."""

    decoder: nn.Module  # the stack of decoder layers with its final norm
    lm_head: nn.Module
    tower: nn.Module
    projector: nn.Module

    @property
    def layers(self) -> Sequence[nn.Module]:
        return self.decoder.layers


@dataclass(frozen=True)
class Encoded:
    """A picture that went through the vision tower."""

    outputs: object  # of `get_image_features`
    tower: Tower | None = None  # for methods that read the tower

    @property
    def arguments(self) -> dict:
        """Arguments of `generate` besides `Prompt.asked`."""
        return {"mm_encoder_outputs": {"image": self.outputs}}


class Family:
    """The base of all families. An instance has no state: each model is an argument."""

    title: ClassVar[str]  # its common name
    kinds: ClassVar[Mapping[str, type[PreTrainedModel]]]  # config.model_type -> the model's class
    processor: ClassVar[type]  # the class that a checkpoint's processor must have
    picture_modes: ClassVar[tuple[str, ...]]  # how a picture is fitted; the default first
    # What methods may use besides the language model, of NEEDS. For "clip_text" see
    # models/catalogue.py, because it depends on the checkpoint.
    offers: ClassVar[frozenset[str]] = frozenset()
    lacks: ClassVar[Mapping[str, str]] = {}  # why something of NEEDS is not offered
    renumbers: ClassVar[bool] = True  # may methods renumber places? Only if they are plain numbers
    not_in_4_bit: ClassVar[tuple[str, ...]]  # full names of the modules that stay in 16 bits

    def serves(self, kind: type[PruningMethod]) -> str:
        """Why models of this family cannot be pruned by a method; empty: they can."""
        offers = self.offers | {"clip_text"} | ({"places"} if self.renumbers else set())
        missing = next((need for need in NEEDS if need in kind.needs - offers), None)
        if missing is None:
            return ""
        why = f": {self.lacks[missing]}" if missing in self.lacks else ""
        return f"{kind.name} needs {NEEDS[missing]}, which {self.title} models do not offer{why}."

    def check(self, name: str, config: Mapping):
        """Refuse a model that cannot be pruned, by its config.json alone.

        Args:
            name: the checkpoint's name in a sentence.
            config: config.json as `read_config` returns it.

        Raises:
            Refused: one sentence.
        """
        text = config["text_config"]
        if text.get("sliding_window") and text.get("use_sliding_window", True):
            raise Refused(
                f"{name} attends through a sliding window of {str(text['sliding_window'])[:80]} "
                "tokens; its caches cannot be shortened one by one, so it cannot be pruned."
            )

    def open_processor(self, path: Path) -> ProcessorMixin:
        """The processor of a folder; a library's error may pass, as in `fit`."""
        return AutoProcessor.from_pretrained(path, local_files_only=True, trust_remote_code=False)

    def fit(self, path: Path, processor, model: PreTrainedModel):
        """Check a checkpoint's processor against its model, and set what its files leave out.

        A library's error about damaged files may pass: the caller puts it into a sentence.

        Args:
            model: one on the meta device is enough.

        Raises:
            Refused: one sentence that names the setting.
        """

    def parts(self, model: PreTrainedModel) -> Parts:
        """The parts of a model."""
        raise NotImplementedError

    def tokens(self, config) -> int:
        """Visual tokens of one picture; of a typical one if the number depends on the picture."""
        raise NotImplementedError

    def sample(self, config, ids: Tensor) -> dict[str, Tensor]:
        """What a processor gives beside the ids for the picture that `tokens` counts.

        Numbers that the tower computes with are on the meta device: only their shapes are true.

        Args:
            ids: (1, tokens) of a prompt with this picture.
        """
        raise NotImplementedError

    def grids(self, config, tokens: int) -> tuple[tuple[int, int], ...]:
        """(rows, columns) of patches of each picture in a prompt with this many visual tokens.

        Empty: the number of tokens does not tell.
        """
        return ()

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
        """Turn a picture (path, bytes, PIL, array) and a question into the model's input.

        Args:
            config: the model's configuration.
            mode: one of `picture_modes`; None: the default.
            system: the checkpoint's own system sentence; None: the family's.
            reword: turns the typed question into the question for the model.

        Raises:
            Refused: one plain sentence about the picture or the question.
        """
        raise NotImplementedError

    def encode(self, model: PreTrainedModel, prompt: Prompt, note_tower: bool = False) -> Encoded:
        """Picture features, once for all methods.

        Args:
            prompt: its inputs are on the model's device; floats have the model's dtype.
            note_tower: also note what methods that read the vision tower need.

        Raises:
            Refused: this model's tower cannot be watched.
        """
        raise NotImplementedError

    def tower_flops(self, config, prompt: Prompt) -> int:
        """FLOPs of vision tower and projector for a prompt's pictures."""
        raise NotImplementedError
