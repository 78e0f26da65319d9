"""From a folder to a model on its device: checks that speak first, 4-bit, several GPUs."""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import nn
from transformers import (
    AutoProcessor,
    BitsAndBytesConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

from visipruner import memory
from visipruner.engine import decoder_of
from visipruner.errors import Refused
from visipruner.inputs import check_choice
from visipruner.memory import gigabytes

BLOCK, PACKED_ROWS = 64, 32  # of bitsandbytes: numbers with one scale; rows packed together
PRECISIONS = ("auto", "float32", "bfloat16", "float16", "4-bit")
# A configuration may ask for so many times the numbers that the weights have; those of tied
# embeddings are stored once.
MOST_OF_CONFIG = 1.5
# Bare names would match nothing but lm_head, and the vision tower would be quantised silently.
NOT_IN_4_BIT = ["model.vision_tower", "model.multi_modal_projector", "lm_head"]


@dataclass(frozen=True)
class Placement:
    """Where a model will lie, and how precisely. `device_map` is accelerate's."""

    precision: str
    dtype: torch.dtype
    device_map: dict | str
    max_memory: dict[int, int] | None = None


def place(title: str, size: int, device: str | None, precision: str) -> Placement:
    """Decide where a checkpoint goes, before a byte of it is fetched or read.

    Args:
        size: bytes of the checkpoint in 16 bits per number.
        device: "cpu", "cuda", "cuda:1"; None: the GPUs if there are any. A large model goes to a
            CPU only when asked to.

    Raises:
        Refused: one sentence that says what is missing and what it would take.
    """
    check_choice("precision", precision, PRECISIONS)
    kind = torch.device(usable_device(device)).type
    if kind == "cpu":
        return _on_cpu(title, size, device, precision)
    # Older GPUs only emulate bfloat16, slowly.
    native = torch.cuda.is_bf16_supported(including_emulation=False)
    half = "bfloat16" if native else "float16"
    if precision == "auto":
        precision = half
    dtype = getattr(torch, precision, None) or getattr(torch, half)  # 4-bit computes in that
    return Placement(precision, dtype, *_on_gpus(title, size, device, precision))


def usable_device(device: str | None) -> str:
    """The device that is meant; None means a GPU if there is one.

    Raises:
        Refused: one sentence, for a word that names no device and for one that is not here.
    """
    has_gpu = torch.cuda.is_available()
    if device is None:
        return "cuda" if has_gpu else "cpu"
    try:
        wanted = torch.device(device)
    except (RuntimeError, TypeError):
        wanted = None
    if wanted is None or wanted.type not in ("cpu", "cuda"):
        raise Refused(f"The device must be cpu, cuda or cuda:NUMBER, not {device!r}.")
    if wanted.type == "cuda" and (wanted.index or 0) >= (
        torch.cuda.device_count() if has_gpu else 0
    ):
        raise Refused(
            f"There is no {device} here: torch finds {torch.cuda.device_count() if has_gpu else 0} "
            "CUDA devices; name another one, or cpu."
        )
    return device


def _on_cpu(title: str, size: int, device: str | None, precision: str) -> Placement:
    if precision == "auto":
        # Small models are exact; a large one would not fit twice.
        precision = "bfloat16" if size >= memory.LARGE else "float32"
    need, free = memory.needed(size, precision), memory.free_on_cpu()
    if device is None and size >= memory.LARGE:
        small = gigabytes(memory.needed(size, "4-bit"))
        raise Refused(
            f"{title} needs a GPU with {gigabytes(memory.needed(size, 'bfloat16'))} free "
            f"({small} in 4-bit), and torch finds none here; with --device cpu it runs slowly in "
            f"{gigabytes(need)} of main memory."
        )
    if need > free:
        raise Refused(
            f"{title} needs {gigabytes(need)} of main memory in {precision}, but "
            f"{gigabytes(free)} are free here{_hint(size, precision)}."
        )
    dtype = torch.float32 if precision == "4-bit" else getattr(torch, precision)
    return Placement(precision, dtype, {"": "cpu"})


def _on_gpus(title: str, size: int, device: str | None, precision: str) -> tuple:
    """(device_map, max_memory): one GPU where the model fits, else all of them together."""
    need, free = memory.needed(size, precision), memory.free_on_gpus()
    named = torch.device(device).index if device else None
    if named is not None:
        free = [bytes_ if index == named else 0 for index, bytes_ in enumerate(free)]
    roomiest = max(range(len(free)), key=free.__getitem__)
    if free[roomiest] >= need:
        return {"": roomiest}, None
    # The last tenth stays empty for activations: they appear on every device.
    shares = {index: int(bytes_ * 0.9) for index, bytes_ in enumerate(free) if bytes_}
    if len(shares) > 1 and sum(shares.values()) >= need:
        return "auto", shares
    raise Refused(
        f"{title} needs {gigabytes(need)} of GPU memory in {precision}, but {gigabytes(sum(free))} "
        f"are free on {device or 'the ' + str(len(free)) + ' GPU(s) here'}{_hint(size, precision)}."
    )


def _hint(size: int, precision: str) -> str:
    if precision == "4-bit":
        return ""
    return f"; in 4-bit it takes {gigabytes(memory.needed(size, '4-bit'))}"


def check_checkpoint(path: Path):
    """Say what is wrong with a checkpoint folder before transformers says it in ten lines.

    Raises:
        Refused: one sentence.
    """
    try:
        config = json.loads((path / "config.json").read_text())
        kind, text = config["model_type"], dict(config.get("text_config") or {})
    except Exception:  # damaged files raise nearly anything
        raise Refused(f"{path} holds no model: its config.json is missing or damaged.") from None
    if kind == "llava_next":
        raise Refused(
            f"{path} holds a LLaVA-NeXT model, which reads several crops of a picture: it can be "
            "pruned from Python with prune(), but this program asks and draws one square only."
        )
    if kind != "llava":
        raise Refused(f"{path} holds a {kind!r} model; only LLaVA-1.5-style models can be opened.")
    if text.get("sliding_window") and text.get("use_sliding_window", True):
        raise Refused(
            f"{path} attends through a sliding window of {text['sliding_window']} tokens; its "
            "caches cannot be shortened one by one, so it cannot be pruned."
        )
    _check_weights(path)


def _check_weights(path: Path):
    if not any(path.glob("*.safetensors")):
        raise Refused(f"{path} holds no weights in safetensors format, the only one that is read.")
    index = path / "model.safetensors.index.json"
    if index.is_file():
        try:
            parts = sorted(set(json.loads(index.read_text())["weight_map"].values()))
            missing = [part for part in parts if not (path / part).is_file()]
        except Exception:
            raise Refused(f"{index} is damaged; fetch it again.") from None
        if missing:
            raise Refused(f"{path} lacks {missing[0]}, one of {len(parts)} files of weights.")


def size_in_16_bit(path: Path) -> int:
    """Bytes of a folder's weights at two bytes per number, from the headers of its files."""
    return 2 * sum(_numbers(path))


def _numbers(path: Path) -> list[int]:
    """How many numbers each tensor of a folder's weights has."""
    counts = []
    for file in path.glob("*.safetensors"):
        try:
            header = _header(file)
            header.pop("__metadata__", None)
            counts += [math.prod(map(int, entry["shape"])) for entry in header.values()]
        except Exception:
            raise Refused(f"{file} is missing or damaged; fetch it again.") from None
    return counts


def _header(file: Path) -> dict:
    with file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        if length > file.stat().st_size:  # so much memory must not even be asked for
            raise Refused("The header is longer than the file.")
        return json.loads(stream.read(length))


def check_config_fits(path: Path):
    """Refuse a configuration of another model than the weights: it would be built in full first.

    Also one whose language model cannot be pruned.

    Raises:
        Refused: one sentence; of sizes with both numbers.
    """
    counts = _numbers(path)
    try:
        config = LlavaConfig.from_pretrained(path, local_files_only=True)
        if getattr(config, "quantization_config", None):
            return  # several numbers are stored as one
        parts = (config.text_config, config.vision_config)
        layers = sum(part.num_hidden_layers for part in parts)
        if layers > len(counts):  # even an empty model of so many layers takes long
            raise Refused(
                f"its config.json asks for {layers:,} layers, but its weights are "
                f"{len(counts):,} tensors"
            )
        with torch.device("meta"):
            model = LlavaForConditionalGeneration(config)
        decoder_of(model)  # else the first question would be refused, and not the model
        asked, there = sum(p.numel() for p in model.parameters()), sum(counts)
        if asked > MOST_OF_CONFIG * there:
            raise Refused(
                f"its config.json asks for {asked:,} numbers, but its weights have {there:,}"
            )
    except Exception as error:
        raise _why(path, error) from None


def load_model(path: Path, placement: Placement, attention: str) -> LlavaForConditionalGeneration:
    """The model of a folder, ready to answer.

    Raises:
        Refused: one sentence: a file is missing or damaged, or memory was not enough.
    """
    extra = {}
    if placement.max_memory:
        extra["max_memory"] = placement.max_memory
    if placement.precision == "4-bit":
        extra["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=placement.dtype,
            llm_int8_skip_modules=NOT_IN_4_BIT,
        )
    try:
        model, found = LlavaForConditionalGeneration.from_pretrained(
            path,
            output_loading_info=True,
            dtype=placement.dtype,
            device_map=placement.device_map,
            attn_implementation=attention,
            use_safetensors=True,
            local_files_only=True,
            **extra,
        )
    except Exception as error:
        raise _why(path, error) from None
    if found["missing_keys"]:
        # transformers would go on with random numbers in their place.
        raise Refused(f"{path} lacks weights, {sorted(found['missing_keys'])[0]} for one.")
    if placement.precision == "4-bit":
        check_4_bit(model)
        keep_odd_layers_unpacked(model)
    return model.eval().requires_grad_(False)


def load_processor(path: Path):
    """Tokenizer, chat template and image processor of a folder.

    Raises:
        Refused: one sentence.
    """
    try:
        processor = AutoProcessor.from_pretrained(path, local_files_only=True)
    except Exception as error:
        raise _why(path, error) from None
    if not getattr(processor, "chat_template", None):
        raise Refused(f"{path} has no chat template, so nobody knows how to ask this model.")
    return processor


def try_prompt(path: Path, vlm):
    """Make one prompt: broken templates and sizes show in nothing else, and then to a visitor.

    Raises:
        Refused: one sentence.
    """
    try:
        prompt = vlm.prepare(Image.new("RGB", (8, 8)), "what?")
        if prompt.layout.num_visual != math.prod(vlm.grid):  # transformers 5.20 lets it pass
            raise Refused("its chat template does not put one picture into a question")
    except Exception as error:
        raise _why(path, error) from None


def _why(path: Path, error: Exception) -> Refused:
    """The sentence for an error while loading: damaged files raise nearly anything."""
    if memory.is_out_of_memory(error):
        return memory.ran_out(error)
    lines = str(error).strip().splitlines() or [type(error).__name__]
    reason = lines[0][:300].rstrip(".: ")
    if isinstance(error, KeyError):  # whose words are the bare key
        reason = f"{reason} is missing"
    return Refused(f"The model in {path} could not be loaded: {reason}.")


def keep_odd_layers_unpacked(model: nn.Module):
    """Let layers run on any CPU whose rows are not whole blocks.

    On a CPU with AVX-512 BF16, bitsandbytes (0.50) packs 4-bit weights anew when they are first
    used, and fails where a row is no multiple of the block; unpacked, they run as on other CPUs.
    """
    from bitsandbytes.nn import Linear4bit

    for module in model.modules():
        if isinstance(module, Linear4bit):
            whole = module.in_features % BLOCK == 0 and module.out_features % PACKED_ROWS == 0
            if not whole:
                module.support_avx512bf16_for_cpu = False


def check_4_bit(model: nn.Module):
    """Make sure that exactly the language model's linear layers are in 4 bits.

    A wrong list of modules to skip is silent, and a quantised vision tower answers worse.

    Raises:
        Refused: names the first module that is not as it should be.
    """
    from bitsandbytes.nn import Linear4bit

    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            wanted = name.startswith("model.language_model.layers.")
            if isinstance(module, Linear4bit) != wanted:
                state = "not in 4 bits" if wanted else "in 4 bits, which only the layers should be"
                raise Refused(f"Loading in 4 bits went wrong: {name} is {state}.")
