"""Checks of a checkpoint's folder before a model is built: what it holds and what is wrong."""

from __future__ import annotations

import hashlib
import json
import os
import re
import traceback
from collections.abc import Iterable
from pathlib import Path

from huggingface_hub import parse_local_safetensors_file_metadata

from visipruner.errors import Refused
from visipruner.files import ROOT, named, shown, write_whole
from visipruner.models import memory

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
SUMS = "checksums.sha256"  # in the format of `sha256sum`


def read_config(path: Path) -> dict:
    """A checkpoint folder's config.json, which names a model_type.

    Raises:
        Refused: one sentence instead of transformers' ten lines.
    """
    name = named(path)
    if not os.path.exists(path / "config.json") and os.path.exists(path / "adapter_config.json"):
        raise Refused(
            f"{name} is an adapter and not a whole model: merge it into {_base_of(path)} and name "
            "the merged model's folder."
        )
    try:
        config = json.loads((path / "config.json").read_text("utf-8"))
        return {**config, "model_type": config["model_type"], "text_config": _text_of(config)}
    except Exception:  # damaged files raise nearly anything
        raise Refused(f"{name} holds no model: its config.json is missing or damaged.") from None


def _text_of(config: dict) -> dict:
    return dict(config.get("text_config") or {})


def check_files(path: Path):
    """Refuse a folder that brings code, lacks weights, or does not match its own checksums.

    Raises:
        Refused: one sentence.
    """
    check_brings_no_code(path)
    weight_files(path)
    _check_sums(path)


def _base_of(adapter: Path) -> str:
    try:
        base = json.loads((adapter / "adapter_config.json").read_text("utf-8"))
        return shown(Path(base["base_model_name_or_path"]))
    except Exception:
        return "the model that it was trained for"


def check_brings_no_code(path: Path):
    """Refuse a folder that names Python code of its own.

    `trust_remote_code=False` is not enough: with an auto_map in vision_config, transformers (5.24)
    still asks on standard input, and runs the code after a "y".
    """
    for file in sorted(path.glob("*config.json")):
        if _names_code(file):
            raise _own_code(path, f"auto_map in {file.name}")
    if os.path.exists(path / "custom_generate"):
        raise _own_code(path, "the folder custom_generate")


def _names_code(file: Path) -> bool:
    """Does any entry of a JSON file, at any depth, name code?"""
    found = []

    def note(entry: dict) -> dict:
        found.append(bool(entry.get("auto_map")))
        return entry

    try:
        json.loads(file.read_text("utf-8"), object_hook=note)
    except (OSError, ValueError, RecursionError):
        raise Refused(f"In {named(file.parent)}, {file.name} is damaged; fetch it again.") from None
    return any(found)


def _own_code(path: Path, where: str) -> Refused:
    return Refused(
        f"{named(path)} brings program code of its own ({where}), which is never run here: only "
        "models that transformers itself knows can be opened."
    )


def weight_files(path: Path) -> list[Path]:
    """The weight files that transformers reads from a folder, ascending.

    As in transformers: model.safetensors, else the files that the index names. Other files
    (adapters, shards of an older release, the weights in another layout) are not read.

    Raises:
        Refused: one sentence, if a file is missing or the index is damaged.
    """
    name = named(path)
    if os.path.exists(path / WEIGHTS):
        return [path / WEIGHTS]
    if not os.path.exists(path / INDEX):
        others = sorted(file.name for file in path.glob("*.safetensors"))
        if others:
            raise Refused(
                f"{name} lacks {WEIGHTS} and {INDEX}, so nothing says whether {others[0][:80]} "
                "is the model."
            )
        raise Refused(f"{name} holds no weights in safetensors format, the only one that is read.")
    try:
        index = json.loads((path / INDEX).read_text("utf-8"))
        parts = sorted({path / part for part in index["weight_map"].values()})
        missing = [part.name for part in parts if not os.path.isfile(part)]
    except Exception:
        raise Refused(f"In {name}, {INDEX} is damaged; fetch it again.") from None
    if missing:
        raise Refused(f"{name} lacks {missing[0][:80]}, one of {len(parts)} files of weights.")
    return parts


def fingerprint(folder: Path) -> str:
    """A name for the weights in a folder.

    Raises:
        Refused: see `weight_files`.
    """
    found = hashlib.sha256()
    for file in weight_files(folder):
        with file.open("rb") as stream:
            hashlib.file_digest(stream, lambda: found)
    return found.hexdigest()[:12]


def manner(folder: Path) -> str:
    """A short name for what else decides an answer: the configurations, tokens and templates."""
    patterns = ("*config.json", "*token*.json", "chat_template*")
    found = hashlib.sha256()
    for file in sorted({file for pattern in patterns for file in folder.glob(pattern)}):
        if file.is_file():
            found.update(f"{file.name} {_sum(file)}\n".encode())
    return found.hexdigest()[:8]


def count_numbers(path: Path) -> list[int]:
    """The number of elements of each weight tensor in a folder, from the file headers.

    Raises:
        Refused: one sentence that names the damaged file.
    """
    counts = []
    for file in weight_files(path):
        try:
            tensors = parse_local_safetensors_file_metadata(file).tensors.values()
            counts += [int(tensor.parameter_count) for tensor in tensors]
        except Exception:  # damaged headers raise nearly anything
            raise Refused(
                f"In {named(path)}, {file.name} is missing or damaged; fetch it again."
            ) from None
    return counts


def size_in_16_bit(path: Path) -> int:
    """Bytes of a folder's weights at two bytes per number."""
    return 2 * sum(count_numbers(path))


def why(path: Path, error: Exception) -> Exception:
    """The error to raise for a library's error while loading, which can be of nearly any type.

    An error from this package's own lines is a bug and is returned unchanged.
    """
    if memory.is_out_of_memory(error):
        return memory.ran_out(error)
    *_, (last, _line) = traceback.walk_tb(error.__traceback__)
    if isinstance(error, Refused):
        words = str(error)
    elif Path(last.f_code.co_filename).is_relative_to(ROOT / "visipruner"):
        return error
    else:
        words = f"{_words(path, error)}."
    return Refused(f"The model in {named(path)} could not be loaded: {words}")


def _words(path: Path, error: Exception) -> str:
    """The first line of a library's error, quoted, short and without this machine's folders."""
    text = str(error).replace(str(path), path.name).strip()
    lines = text.splitlines() or [type(error).__name__]
    words = re.sub(r"(?<![\w:/.])/(?:[^/\s]+/)+", "", lines[0]).rstrip(".: ")
    if isinstance(error, KeyError):  # its text is only the key
        words = f"{words} is missing"
    return f"“{words if len(words) <= 80 else words[:79] + '…'}”"


def write_sums(folder: Path, names: Iterable[str]):
    """Write a list of checksums into the folder; `check_files` compares the files with it."""
    write_whole(folder / SUMS, "".join(f"{_sum(folder / name)}  {name}\n" for name in names))


def _check_sums(path: Path):
    """Compare a folder with its own checksums: headers do not show flipped bytes in weights."""
    if not os.path.exists(path / SUMS):
        return
    try:
        lines = [line.split() for line in (path / SUMS).read_text("utf-8").splitlines()]
        sums = {Path(name).name: digest for digest, name in lines}
    except (OSError, ValueError):
        raise Refused(f"In {named(path)}, {SUMS} is damaged; fetch it again.") from None
    for name, digest in sums.items():
        if not os.path.isfile(path / name) or _sum(path / name) != digest:
            raise Refused(
                f"In {named(path)}, {name[:80]} is missing or was changed since its checksum was "
                f"noted in {SUMS}: fetch it again."
            )


def _sum(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
