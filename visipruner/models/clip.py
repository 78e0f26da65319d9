"""CLIP ViT-L/14-336: embeddings of a picture's patches and of what is asked about it.

LLaVA-1.5's vision tower is this CLIP's, but LLaVA has neither CLIP's text tower nor the two
projections. They are a download of their own. The vision tower does not run again: its noted output
(tower.py) goes through CLIP's last layer norm and projection.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import CLIPModel, CLIPTokenizer

from visipruner.errors import Refused
from visipruner.files import named
from visipruner.models import hub, loading
from visipruner.models.checkpoint import WEIGHTS, check_brings_no_code, check_files, why
from visipruner.models.memory import gigabytes
from visipruner.stock import encoder_layers, tower_layers
from visipruner.tower import Clip, Tower

NAME, TITLE = "clip-vit-large-patch14-336", "CLIP ViT-L/14-336"
REPO = f"openai/{NAME}"
SIZE = 1_712_000_000  # bytes, in 32 bits
# The hub has this model only as a pickle, which could bring code. So it is read as weights only,
# and only if it is the very file that OpenAI uploaded.
PICKLE = "pytorch_model.bin"
PICKLE_SHA256 = "c6032c2e0caae3dc2d4fba35535fa6307dbb49df59c7e182b1bc4b3329b81801"
PATTERNS = ("*.json", "*.txt", WEIGHTS, PICKLE)
# The towers are equal up to rounding to 16 bits.
ROUNDING = 2.0**-8


def find() -> Path | None:
    """The folder with its files; None: not downloaded yet."""
    shelf = os.environ.get("VISIPRUNER_MODEL_DIR")
    if shelf and os.path.isdir(folder := Path(shelf, NAME)):
        return folder
    folder = hub.snapshot(REPO, PATTERNS)
    small = ("config.json", "tokenizer.json")
    whole = folder and _weights(folder) and all(os.path.isfile(folder / name) for name in small)
    return folder if whole else None


def found() -> Path:
    """The folder with its files.

    Raises:
        Refused: it is not on this machine.
    """
    folder = find()
    if folder is None:
        raise Refused(
            f"{TITLE}, which this method needs, is not on this machine yet: choose the method on "
            f"the page and press Run ({gigabytes(SIZE)})."
        )
    return folder


def download() -> Iterator[hub.Progress]:
    """As `hub.download`."""
    return hub.download(REPO, SIZE, PATTERNS)


def fetch(on_progress: Callable[[hub.Progress], None]):
    """Download it if it is not on this machine.

    Raises:
        Refused: as `hub.download`.
    """
    if find() is None:
        for progress in download():
            on_progress(progress)


def _weights(folder: Path) -> Path | None:
    files = (folder / name for name in (WEIGHTS, PICKLE))
    return next((file for file in files if os.path.isfile(file)), None)


class Embedder:
    """CLIP's text tower and projections, in float32.

    Args:
        model: a whole CLIP, of which everything but the vision tower's layers is used.
        tokenizer: CLIP's own.
    """

    def __init__(self, model: CLIPModel, tokenizer):
        self.model, self.tokenizer = model, tokenizer

    @property
    def segment(self) -> int:
        """Tokens of the longest text that the text tower takes."""
        return self.model.config.text_config.max_position_embeddings

    @torch.inference_mode()
    def embed(self, tower: Tower, question: str) -> Clip:
        """CLIP's embeddings of a picture and a question.

        Args:
            tower: the picture in a vision tower that equals this CLIP's.
            question: as the person typed it.
        """
        norm, project = self.model.vision_model.post_layernorm, self.model.visual_projection
        patches = tower.hidden[1:].to(project.weight.device, project.weight.dtype)
        image, segments = project(norm(patches)), self._segments(question)
        text = self.model.text_projection(self.model.text_model(**segments).pooler_output)
        return Clip(image, text, self._flops(len(image), len(text)))

    def _segments(self, question: str) -> dict[str, Tensor]:
        """(segments, tokens) each: the question's tokens, cut as CDPruner's code cuts them.

        Begin and end are marked once in the whole question, and the last segment is filled with
        zeros.
        """
        read = self.tokenizer(question, return_tensors="pt")
        device, found = self.model.text_projection.weight.device, {}
        for name in ("input_ids", "attention_mask"):
            row = read[name][0]
            filled = nn.functional.pad(row, (0, -len(row) % self.segment))
            found[name] = filled.view(-1, self.segment).to(device)
        return found

    def _flops(self, patches: int, texts: int) -> int:
        """FLOPs of one call of `embed`."""
        vision, text = self.model.config.vision_config, self.model.config.text_config
        width, tokens = text.hidden_size, self.segment
        dense = tokens * (4 * width**2 + 2 * width * text.intermediate_size)
        layer = dense + 2 * tokens**2 * width
        projected = self.model.config.projection_dim
        macs = texts * (text.num_hidden_layers * layer + width * projected)
        return 2 * (macs + patches * vision.hidden_size * projected)


def load(path: Path, model: nn.Module, device: torch.device) -> Embedder:
    """The embedder of a folder, for a LLaVA.

    Args:
        model: the LLaVA; its vision tower must be this CLIP's.

    Raises:
        Refused: one sentence: files are missing or damaged, memory is short, or the towers differ.
    """
    loading.place(TITLE, SIZE // 2, "cpu", "float32")
    pickled = _check(path)
    try:
        clip, found = CLIPModel.from_pretrained(
            path,
            output_loading_info=True,
            dtype=torch.float32,
            use_safetensors=not pickled,
            local_files_only=True,
            trust_remote_code=False,
        )
        tokenizer = CLIPTokenizer.from_pretrained(
            path, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:
        raise why(path, error) from None
    if found["missing_keys"]:
        raise Refused(f"{named(path)} lacks weights, {sorted(found['missing_keys'])[0]} for one.")
    _check_same(path, clip, model)
    clip.vision_model.encoder = None  # its layers run in the LLaVA
    return Embedder(clip.to(device).eval().requires_grad_(False), tokenizer)


def _check(path: Path) -> bool:
    """Check a folder's files; returns whether its weights are OpenAI's pickle.

    Raises:
        Refused: one sentence.
    """
    weights = _weights(path)
    if weights is None or weights.name != PICKLE:
        check_files(path)
        return False
    check_brings_no_code(path)
    with open(weights, "rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != PICKLE_SHA256:
            raise Refused(
                f"In {named(path)}, {PICKLE} is not the file of {REPO}, and no other pickle is "
                f"opened: fetch it again, or put {WEIGHTS} in its place."
            )
    return True


def _check_same(path: Path, clip: CLIPModel, model: nn.Module):
    """Check that a LLaVA's vision tower is this CLIP's, by its layers' first projections.

    Raises:
        Refused: one sentence.
    """
    ours, theirs = tower_layers(model), encoder_layers(clip.vision_model)
    if not ours or len(ours) != len(theirs) or not all(map(_are_equal, ours, theirs)):
        raise Refused(
            f"{named(path)} does not fit this model: its vision tower has other weights, so no "
            "text embedding fits."
        )


def _are_equal(one: nn.Module, other: nn.Module) -> bool:
    one, other = (layer.self_attn.q_proj.weight.detach().float().cpu() for layer in (one, other))
    if one.shape != other.shape:
        return False
    return bool((one - other).abs().max() <= ROUNDING * other.abs().max())
