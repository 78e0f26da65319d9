"""Which models there are, how they load, and how picture and question become their input."""

from __future__ import annotations

import json
import re
import threading
from dataclasses import dataclass, field
from pathlib import Path

import torch
from PIL import Image, ImageOps
from safetensors import SafetensorError
from transformers import AutoProcessor, LlavaForConditionalGeneration

from visipruner.inputs import clean_question, literal, open_picture
from visipruner.layout import TokenLayout

ASSETS = Path(__file__).resolve().parent.parent / "assets"

# LLaVA-1.5 was trained with this sentence, which its chat template leaves out unless given.
SYSTEM = (
    "A chat between a curious human and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, and polite answers to the human's questions."
)
PICTURE_MODES = ("pad", "crop")


@dataclass(frozen=True)
class ModelSpec:
    """One checkpoint: where it lies and what to say about it."""

    name: str
    title: str
    path: str
    note: str = ""


MODELS: dict[str, ModelSpec] = {
    "tiny": ModelSpec(
        "tiny",
        "tiny-llava (bundled)",
        str(ASSETS / "tiny-llava"),
        "Trained in this repository on drawings of coloured shapes and digits; knows nothing else.",
    ),
}


@dataclass(frozen=True)
class Prompt:
    """One picture and one question, ready for the model."""

    question: str
    text: str  # the whole prompt, as the tokenizer got it
    inputs: dict[str, torch.Tensor]  # input_ids (1, tokens), attention_mask, pixel_values
    layout: TokenLayout
    seen: Image.Image  # the picture exactly as the model sees it, before normalisation
    padding: tuple[int, ...]  # patches that hold nothing but padding
    notes: tuple[str, ...] = ()  # sentences for the user


@dataclass
class VLM:
    """A loaded model with its processor. Hooks belong to the model: who runs it holds `lock`."""

    spec: ModelSpec
    model: LlavaForConditionalGeneration
    processor: object
    lock: threading.Lock = field(default_factory=threading.Lock)
    warm: set[int] = field(default_factory=set)  # prompt lengths that have run once
    runs: int = 0  # finished comparisons: whose turn it is to go first

    @property
    def device(self) -> torch.device:
        return self.model.get_input_embeddings().weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.model.lm_head.weight.dtype

    @property
    def grid(self) -> tuple[int, int]:
        """Patches (rows, columns) of a picture."""
        vision = self.model.config.vision_config
        side = vision.image_size // vision.patch_size
        return side, side

    def prepare(self, picture, question: str, mode: str = "pad") -> Prompt:
        """Turn a picture (path, bytes, PIL, array) and a question into the model's input.

        Args:
            mode: "pad" to a square, as LLaVA-1.5 was trained, or "crop" its middle.

        Raises:
            ValueError: one plain sentence about the picture or the question.
        """
        if mode not in PICTURE_MODES:
            raise ValueError(f"The picture mode must be pad or crop, not {mode!r}.")
        picture = open_picture(picture)
        question, notes = clean_question(question)
        tokenizer = self.processor.tokenizer
        text = self._prompt_text(literal(question, tokenizer.all_special_tokens))
        side = self.model.config.vision_config.image_size
        square, padding_box = _square(
            picture, side, mode, self.processor.image_processor.image_mean
        )
        inputs = self.processor(images=square, text=text, return_tensors="pt")
        inputs["pixel_values"] = inputs["pixel_values"].to(self.model.dtype)
        layout = TokenLayout.from_ids(
            inputs["input_ids"], self.model.config.image_token_id, self.grid
        )
        return Prompt(
            question,
            text,
            {name: tensor.to(self.device) for name, tensor in inputs.items()},
            layout,
            square,
            _padding_patches(padding_box, side, self.grid),
            tuple(notes),
        )

    def _prompt_text(self, question: str) -> str:
        messages = [
            {"role": "system", "content": [{"type": "text", "text": SYSTEM}]},
            {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]},
        ]
        text = self.processor.apply_chat_template(messages, add_generation_prompt=True)
        # Templates differ in the blanks that they add; LLaVA-1.5 was trained with exactly one.
        return re.sub(re.escape(SYSTEM) + r"\s*", SYSTEM + " ", text)

    @torch.inference_mode()
    def encode(self, prompt: Prompt):
        """Picture features, once for all methods: what `generate(mm_encoder_outputs=...)` takes."""
        return self.model.get_image_features(prompt.inputs["pixel_values"], return_dict=True)


def load_vlm(
    model: str | Path = "tiny",
    *,
    device: str | None = None,
    dtype: torch.dtype | None = None,
    attention: str = "sdpa",
) -> VLM:
    """Load a model of MODELS by name, or any local folder with a LLaVA-1.5-style checkpoint.

    Args:
        model: a name in MODELS or a folder (safetensors only, no remote code).
        device: "cpu", "cuda"; None: a GPU if there is one.
        dtype: None: float32 on a CPU, bfloat16 on a GPU.
        attention: the backend of transformers, "sdpa" or "eager".

    Raises:
        ValueError: one plain sentence that says what is missing.
    """
    spec = MODELS.get(str(model)) or _local_spec(Path(model))
    _check_checkpoint(Path(spec.path))
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    dtype = dtype or (torch.float32 if device == "cpu" else torch.bfloat16)
    try:
        loaded = LlavaForConditionalGeneration.from_pretrained(
            spec.path,
            dtype=dtype,
            attn_implementation=attention,
            use_safetensors=True,
            local_files_only=True,
        )
        processor = AutoProcessor.from_pretrained(spec.path, local_files_only=True)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ValueError(
            f"The model in {spec.path} could not be loaded: a file is missing or damaged "
            f"({str(error).splitlines()[0]})."
        ) from error
    return VLM(spec, loaded.eval().requires_grad_(False).to(device), processor)


def _local_spec(path: Path) -> ModelSpec:
    if not path.is_dir():
        raise ValueError(
            f"There is no model {str(path)!r}: choose one of {', '.join(MODELS)} or name a folder "
            "with a LLaVA checkpoint."
        )
    return ModelSpec(path.name, path.name, str(path), "A local checkpoint.")


def _check_checkpoint(path: Path):
    """Say what is wrong with a checkpoint folder before transformers says it in ten lines."""
    try:
        kind = json.loads((path / "config.json").read_text())["model_type"]
    except (OSError, ValueError, KeyError):
        raise ValueError(f"{path} holds no model: its config.json is missing or damaged.") from None
    if kind != "llava":
        raise ValueError(
            f"{path} holds a {kind!r} model; only LLaVA-1.5-style models can be opened."
        )
    if not any(path.glob("*.safetensors")):
        raise ValueError(
            f"{path} holds no weights in safetensors format, the only one that is read."
        )


def _square(picture: Image.Image, side: int, mode: str, mean) -> tuple[Image.Image, tuple]:
    """The square that the model sees, and the box (left, top, right, bottom) of the picture."""
    if mode == "crop":
        return ImageOps.fit(picture, (side, side), Image.Resampling.BICUBIC), (0, 0, side, side)
    scale = side / max(picture.size)
    width, height = (min(side, max(1, round(edge * scale))) for edge in picture.size)
    left, top = (side - width) // 2, (side - height) // 2
    square = Image.new("RGB", (side, side), tuple(round(255 * channel) for channel in mean))
    square.paste(picture.resize((width, height), Image.Resampling.BICUBIC), (left, top))
    return square, (left, top, left + width, top + height)


def _padding_patches(box: tuple, side: int, grid: tuple[int, int]) -> tuple[int, ...]:
    """Patches that touch no pixel of the picture."""
    rows, columns = grid
    left, top, right, bottom = box
    high, wide = side / rows, side / columns
    return tuple(
        row * columns + column
        for row in range(rows)
        for column in range(columns)
        if (row + 1) * high <= top
        or row * high >= bottom
        or (column + 1) * wide <= left
        or column * wide >= right
    )
