"""What is installed, what would fit into this machine, and what is missing.

    python -m visipruner doctor
    python -m visipruner doctor smolvlm-256m

About ten lines for a bug report: they name no user, no folder above a checkpoint's own, and no
token. Ends with status 2 if something needed is missing, or if the named model would not load.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from pathlib import Path

import psutil
import torch

from visipruner import versions
from visipruner.errors import Refused
from visipruner.files import print_whole
from visipruner.inputs import check_choice
from visipruner.models import catalogue, cpu, hub, loading, memory
from visipruner.models.console import stay_quiet_and_offline
from visipruner.models.memory import gigabytes
from visipruner.models.specs import MODELS, ModelSpec

# Variables that change what happens here; only their names are told, since values may be secret.
SETTINGS = (
    "ATEN_CPU_CAPABILITY", "CUDA_VISIBLE_DEVICES", "HF_ENDPOINT", "HF_HOME", "HF_HUB_CACHE",
    "HF_HUB_OFFLINE", "HF_TOKEN", "OMP_NUM_THREADS", "SPACE_ID", "SPACES_ZERO_GPU",
    "VISIPRUNER_MODELS", "VISIPRUNER_MODEL_DIR",
)  # fmt: skip


def add_options(parser: argparse.ArgumentParser):
    """The options of the command."""
    parser.add_argument("model", nargs="?", help=f"a folder, or one of: {', '.join(MODELS)}")
    parser.add_argument("--device", help="cpu or cuda, where the models would go")
    parser.add_argument("--precision", default="auto", help="in which the model would be loaded")
    parser.add_argument("--json", action="store_true", help="the same as JSON")


def run(args) -> int:
    """Print the report. Returns 0, or 2 if something is missing or the model would not load.

    Raises:
        Refused: a wrong option.
    """
    loading.usable_device(args.device)
    check_choice("precision", args.precision, loading.PRECISIONS)
    stay_quiet_and_offline()
    found = facts(args.device)
    if args.model is not None:
        found["model"] = model_facts(args.model, args.device, args.precision)
    print_whole(json.dumps(found, indent=1) if args.json else "\n".join(told(found)))
    lost = any(name in versions.NEEDED for name in found["missing"])
    return 2 if lost or "refused" in found.get("model", {}) else 0


# -- facts


def facts(device: str | None = None) -> dict:
    """What is here."""
    main = psutil.virtual_memory()
    native, why = cpu.has_bfloat16()
    return {
        "visipruner": versions.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "packages": {
            name: {"release": release, "tested": versions.is_tested(name, release)}
            for name, release in versions.installed().items()
        },
        "missing": versions.lacking(),
        "processor": {
            "name": cpu.name(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "bfloat16": native,
            "why": why,
        },
        "memory": {"free": memory.free_on_cpu(), "total": main.total},
        "gpus": gpus(),
        "disk": hub.free_disk(),
        "models": {name: place_facts(spec, device) for name, spec in MODELS.items()},
        "settings": [name for name in SETTINGS if name in os.environ],
    }


def gpus() -> list[dict]:
    """Every GPU that torch finds, with its free and whole memory."""
    found = []
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        try:
            free, total = torch.cuda.mem_get_info(index)
        except RuntimeError:  # a driver that does not answer
            free = total = 0
        found.append({"name": torch.cuda.get_device_name(index), "free": free, "total": total})
    return found


def place_facts(spec: ModelSpec, device: str | None) -> dict:
    """Is a named model here, and has it a place? By its size alone.

    One that the device has no room for is tried in main memory, where it is slow.
    """
    found: dict = {"here": bool(spec.find())}
    for where in (device, "cpu"):
        try:
            placed = loading.place(spec.title, spec.size, where, "auto")
        except (Refused, RuntimeError) as refusal:  # a driver may not answer
            found.setdefault("refused", str(refusal))
            continue
        need = memory.needed(spec.size, placed.precision)
        return {**found, "fits": {"precision": placed.precision, "needs": need}}
    return found


def model_facts(model: str, device: str | None, precision: str) -> dict:
    """Would this model load here? All is checked but the numbers in its weights."""
    found: dict = {"model": MODELS[model].title if model in MODELS else Path(model).name}
    try:
        spec = catalogue.spec_of(model)
        path = spec.find()
        found["from"] = origin(spec, path)
        if path is None:
            hub.check_disk(spec.repo, spec.size)
            size, placed = spec.size, loading.place(spec.title, spec.size, device, precision)
        else:
            size = catalogue.size_in_16_bit(path)
            placed = catalogue.checked(spec, path, device, precision)[-1]
    except Refused as refusal:
        return {**found, "refused": str(refusal)}
    found |= {"precision": placed.precision, "why": placed.why}
    return found | {"needs": memory.needed(size, placed.precision)}


def origin(spec: ModelSpec, path: Path | None) -> str:
    """Where a model's files are, or would come from, without a path."""
    if path is None:
        return f"the hub: {spec.repo}, {spec.download_size} to download, {spec.licence}"
    if spec.name not in MODELS:
        return "a folder"
    if not spec.repo:
        return "this repository"
    return "VISIPRUNER_MODEL_DIR" if spec.on_shelf() else f"the hub's cache: {spec.repo}"


# -- words


def told(found: dict) -> list[str]:
    """The facts as lines."""
    chip, main = found["processor"], found["memory"]
    threads, why = f"torch uses {chip['threads']} threads", chip["why"]
    lines = {
        "visipruner": f"{found['visipruner']}, python {found['python']}, {found['system']}",
        "packages": ", ".join(_package(*item) for item in found["packages"].items()),
        "missing": ", ".join(map(_missing, found["missing"])) or "nothing",
        "processor": f"{chip['name']}, {chip['cores']} cores, {threads}; bfloat16: {why}",
        "memory": f"{gigabytes(main['free'])} free of {gigabytes(main['total'])}",
        "GPU": ", ".join(map(_gpu, found["gpus"])) or "none that torch finds",
        "disk": f"{gigabytes(found['disk'])} free for downloads",
        **_models(found["models"]),
        "settings": ", ".join(found["settings"]) or "none",
    }
    if "model" in found:
        lines["model"] = _model(found["model"])
    return [f"{name:11} {words}" for name, words in lines.items()]


def _package(name: str, one: dict) -> str:
    outside = "" if one["tested"] else f" (not tested, {versions.TESTED[name].replace(',', ', ')})"
    return f"{name} {one['release']}{outside}"


def _missing(name: str) -> str:
    need = ", needed" if name in versions.NEEDED else ""
    return f"{name} ({versions.USES[name]}{need})"


def _gpu(one: dict) -> str:
    if not one["total"]:
        return f"{one['name']}, which does not answer"
    return f"{one['name']}, {gigabytes(one['free'])} free of {gigabytes(one['total'])}"


def _models(models: dict) -> dict[str, str]:
    here = [name for name, one in models.items() if one["here"]]
    none = [name for name, one in models.items() if "fits" not in one]
    fits: dict[str, list[str]] = {}
    for name, one in models.items():
        if "fits" in one:
            slow = " --device cpu" if "refused" in one else ""
            how = f"in {one['fits']['precision']}{slow}"
            fits.setdefault(how, []).append(f"{name} {gigabytes(one['fits']['needs'])}")
    words = "; ".join(f"{how}: {', '.join(names)}" for how, names in fits.items())
    return {
        "here": ", ".join(here) or "no model",
        "would fit": words or "no model",
        "no room": f"for {', '.join(none)}" if none else "-",
    }


def _model(one: dict) -> str:
    where = f", from {one['from']}" if "from" in one else ""
    if "refused" in one:
        return f"{one['model']}{where}: would not load. {one['refused']}"
    why = f" ({one['why']})" if one["why"] else ""
    need = gigabytes(one["needs"])
    return f"{one['model']}{where}: would load in {one['precision']}{why}, about {need} of memory"
