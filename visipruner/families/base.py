"""What a family of models is: all that differs between LLaVA-1.5 and another architecture.

The engine needs no family: it prunes any stock decoder. A family is what loads, asks, encodes,
counts and draws one. A new family is one file here and one line in `FAMILIES`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from torch import nn
from transformers import PreTrainedModel

from visipruner.errors import Refused
from visipruner.prompt import Prompt
from visipruner.tower import Tower


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
    tower: Tower | None = None  # what methods that look into the tower need
    more: Mapping = field(default_factory=dict)  # further arguments of `generate`

    @property
    def arguments(self) -> dict:
        """What `generate` takes beside the prompt's tokens and their mask."""
        return {"mm_encoder_outputs": {"image": self.outputs}, **self.more}


class Family:
    """The base of all families. An instance holds nothing: all of it is one model's own."""

    title: ClassVar[str]  # as people call it
    kinds: ClassVar[Mapping[str, type[PreTrainedModel]]]  # config.model_type -> the model's class
    processor: ClassVar[type]  # the class that the files of a checkpoint must give
    picture_modes: ClassVar[tuple[str, ...]]  # how a picture is made to fit; the usual one first
    # What methods may need beside the language model: of "tower", "clip_text".
    offers: ClassVar[frozenset[str]] = frozenset()
    renumbers: ClassVar[bool] = True  # whether methods may close up places: plain numbers only
    not_in_4_bit: ClassVar[tuple[str, ...]]  # full names of the modules that stay in 16 bits

    def check(self, name: str, config: Mapping):
        """Refuse what config.json alone shows cannot be pruned.

        Args:
            name: the checkpoint, as a sentence calls it.
            config: config.json as `read_config` gives it.

        Raises:
            Refused: one sentence.
        """
        text = config["text_config"]
        if text.get("sliding_window") and text.get("use_sliding_window", True):
            raise Refused(
                f"{name} attends through a sliding window of {str(text['sliding_window'])[:80]} "
                "tokens; its caches cannot be shortened one by one, so it cannot be pruned."
            )

    def fit(self, path: Path, processor, model: PreTrainedModel):
        """Check a checkpoint's processor against its model, and set what its files leave out.

        What a library raises over damaged files may pass: the caller knows how to say it.

        Args:
            model: one without memory will do.

        Raises:
            Refused: one sentence that names the setting.
        """

    def parts(self, model: PreTrainedModel) -> Parts:
        """Where a model keeps its parts."""
        raise NotImplementedError

    def tokens(self, config) -> int:
        """Visual tokens of one picture; where they depend on it, those of a usual one."""
        raise NotImplementedError

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
            mode: one of `picture_modes`; None: the usual one.
            system: the checkpoint's own system sentence; None: the family's.
            reword: what the model is asked, from the question as it was typed.

        Raises:
            Refused: one plain sentence about the picture or the question.
        """
        raise NotImplementedError

    def encode(self, model: PreTrainedModel, prompt: Prompt, note_tower: bool = False) -> Encoded:
        """Picture features, once for all methods.

        Args:
            prompt: its inputs lie on the model's device, numbers in the model's dtype.
            note_tower: also note what methods that look into the vision tower need.

        Raises:
            Refused: this model's tower cannot be watched.
        """
        raise NotImplementedError

    def tower_flops(self, config, prompt: Prompt) -> int:
        """FLOPs of vision tower and projector for a prompt's pictures."""
        raise NotImplementedError
