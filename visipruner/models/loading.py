"""From a folder to a model on its device: early checks, 4-bit, several GPUs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedConfig, PreTrainedModel

from visipruner.decoders import decoder_of, not_understood
from visipruner.errors import Refused, quoted
from visipruner.families import Family, Parts, family_of
from visipruner.files import named
from visipruner.inputs import check_choice
from visipruner.models import cpu, memory
from visipruner.models.checkpoint import check_files, count_numbers, read_config, why
from visipruner.models.memory import gigabytes

BLOCK, PACKED_ROWS = 64, 32  # of bitsandbytes: numbers that share a scale; rows packed together
PRECISIONS = ("auto", "float32", "bfloat16", "float16", "4-bit")
# A configuration may ask for at most this many times the numbers in the weights. Tied embeddings
# are stored once but counted twice.
MOST_OF_CONFIG = 1.5


@dataclass(frozen=True)
class Placement:
    """A model's devices and precision. `device_map` is accelerate's.

    Args:
        why: why this precision was chosen on a CPU, in words; empty: it was wished for.
    """

    precision: str
    dtype: torch.dtype
    device_map: dict | str
    max_memory: dict[int, int] | None = None
    why: str = ""


def place(title: str, size: int, device: str | None, precision: str) -> Placement:
    """Decide where a checkpoint goes, before any of it is fetched or read.

    Args:
        size: bytes of the checkpoint in 16 bits per number.
        device: "cpu", "cuda", "cuda:1"; None: the GPUs if torch finds any. A model that would take
            minutes on a CPU goes there only on request.

    Raises:
        Refused: one sentence that says what is missing and what is needed.
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
    dtype = getattr(torch, precision, None) or getattr(torch, half)  # 4-bit computes in `half`
    return Placement(precision, dtype, *_on_gpus(title, size, device, precision))


def usable_device(device: str | None) -> str:
    """The device to use; None: a GPU if torch finds one.

    Raises:
        Refused: one sentence: the word names no device, or this machine lacks the device.
    """
    has_gpu = torch.cuda.is_available()
    if device is None:
        return "cuda" if has_gpu else "cpu"
    try:
        wanted = torch.device(device)
    except (RuntimeError, TypeError):
        wanted = None
    if wanted is None or wanted.type not in ("cpu", "cuda"):
        raise Refused(f"The device must be cpu, cuda or cuda:NUMBER, not {quoted(device)}.")
    if wanted.type == "cuda" and (wanted.index or 0) >= (
        torch.cuda.device_count() if has_gpu else 0
    ):
        raise Refused(
            f"There is no {device} here: torch finds {torch.cuda.device_count() if has_gpu else 0} "
            "CUDA devices; name another one, or cpu."
        )
    return device


def _on_cpu(title: str, size: int, device: str | None, precision: str) -> Placement:
    free, why = memory.free_on_cpu(), ""
    if precision == "auto":
        precision, why = cpu.usual_precision(size, free)
    need = memory.needed(size, precision)
    if device is None and size >= memory.ON_REQUEST:
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
    return Placement(precision, dtype, {"": "cpu"}, why=why)


def _on_gpus(title: str, size: int, device: str | None, precision: str) -> tuple:
    """(device_map, max_memory): one GPU if the model fits, else all GPUs together."""
    need, free = memory.needed(size, precision), memory.free_on_gpus()
    named = torch.device(device).index if device else None
    if named is not None:
        free = [bytes_ if index == named else 0 for index, bytes_ in enumerate(free)]
    roomiest = max(range(len(free)), key=free.__getitem__)
    if free[roomiest] >= need:
        return {"": roomiest}, None
    # The last tenth stays free for activations, which every device holds.
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


def check_checkpoint(path: Path) -> Family:
    """Check a checkpoint folder before transformers fails on it in ten lines.

    Returns the family that serves it.

    Raises:
        Refused: one sentence.
    """
    config = read_config(path)
    family = family_of(config["model_type"], named(path))
    family.check(named(path), config)
    check_files(path)
    return family


def _class_of(path: Path) -> type[PreTrainedModel]:
    kind = read_config(path)["model_type"]
    return family_of(kind, named(path)).kinds[kind]


def build_empty(path: Path) -> PreTrainedModel:
    """The model that config.json describes, on the meta device: to check it without weights.

    Raises:
        Refused: one sentence: config.json and the weights describe different models (with both
            sizes), or the language model cannot be pruned.
    """
    counts, model_class = count_numbers(path), _class_of(path)
    try:
        # Set the backend: a configuration may name one that would be fetched from the hub.
        config = model_class.config_class.from_pretrained(
            path, local_files_only=True, trust_remote_code=False, attn_implementation="eager"
        )
        _check_depth(config, counts)
        with torch.device("meta"):
            model = model_class(config)
        _check_understood(model)  # refuse the model now, not its first question
    except Exception as error:
        raise why(path, error) from None
    # Quantised weights store several numbers as one.
    asked, there = sum(p.numel() for p in model.parameters()), sum(counts)
    if asked > MOST_OF_CONFIG * there and not getattr(config, "quantization_config", None):
        raise Refused(
            f"The model in {named(path)} could not be loaded: its config.json asks for {asked:,} "
            f"numbers, but its weights have {there:,}."
        )
    return model.eval()


def _check_understood(model: PreTrainedModel):
    try:
        decoder_of(model)
    except Refused as refusal:
        raise not_understood(model.get_decoder(), str(refusal).rstrip(".")) from None


def _check_depth(config: PreTrainedConfig, counts: list[int]):
    """Refuse absurd depths: even an empty model with very many layers takes long to build."""
    parts = config.get_text_config(), config.vision_config
    # Qwen's towers call their number of layers `depth`.
    layers = sum(getattr(part, "num_hidden_layers", None) or part.depth for part in parts)
    if layers > len(counts):
        raise Refused(
            f"its config.json asks for {layers:,} layers, but its weights are {len(counts):,} "
            "tensors."
        )


def load_model(path: Path, placement: Placement, attention: str) -> PreTrainedModel:
    """The model of a folder, ready to answer.

    Raises:
        Refused: one sentence: a file is missing or damaged, or memory ran out.
    """
    model_class, extra = _class_of(path), {}
    family = family_of(model_class.config_class.model_type)
    if placement.max_memory:
        extra["max_memory"] = placement.max_memory
    if placement.precision == "4-bit":
        extra["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=placement.dtype,
            llm_int8_skip_modules=list(family.not_in_4_bit),
        )
    try:
        model, found = model_class.from_pretrained(
            path,
            output_loading_info=True,
            dtype=placement.dtype,
            device_map=placement.device_map,
            attn_implementation=attention,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            **extra,
        )
    except Exception as error:
        raise why(path, error) from None
    if found["missing_keys"]:
        # transformers would fill them with random numbers and go on.
        raise Refused(f"{named(path)} lacks weights, {sorted(found['missing_keys'])[0]} for one.")
    if placement.precision == "4-bit":
        check_4_bit(model, family.parts(model))
        keep_odd_layers_unpacked(model)
    return model.eval().requires_grad_(False)


def keep_odd_layers_unpacked(model: nn.Module):
    """Make layers whose rows are not whole blocks run on every CPU.

    On a CPU with AVX-512 BF16, bitsandbytes (0.50) repacks 4-bit weights at their first use. That
    fails if a row is no multiple of the block. Unpacked, such layers run as on other CPUs.
    """
    from bitsandbytes.nn import Linear4bit

    for module in model.modules():
        if isinstance(module, Linear4bit):
            whole = module.in_features % BLOCK == 0 and module.out_features % PACKED_ROWS == 0
            if not whole:
                module.support_avx512bf16_for_cpu = False


def check_4_bit(model: nn.Module, parts: Parts):
    """Check that exactly the linear layers inside the language model's layers are in 4 bits.

    A wrong list of modules to skip raises no error, and a quantised vision tower answers worse.

    Raises:
        Refused: names the first module in the wrong precision.
    """
    from bitsandbytes.nn import Linear4bit

    inside = {module for layer in parts.layers for module in layer.modules()}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            wanted = module in inside
            if isinstance(module, Linear4bit) != wanted:
                state = "not in 4 bits" if wanted else "in 4 bits, which only the layers should be"
                raise Refused(f"Loading in 4 bits went wrong: {name} is {state}.")
