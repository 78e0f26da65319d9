"""How hard to prune: the only place where a level, one number or word, gets a meaning."""

from __future__ import annotations

import json
import math
import reprlib  # quotes, and cuts what is long
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from visipruner.errors import Refused
from visipruner.inputs import check_choice, check_number
from visipruner.methods import METHODS, FastV, PruningMethod, Random, Schedule, VisiPruner
from visipruner.methods.visipruner import STAGES

if TYPE_CHECKING:  # that module reads presets while it loads a model
    from visipruner.models import VLM

PRESETS = {"gentle": 0.25, "balanced": 0.5, "aggressive": 0.75}
SEMANTICS = ("paper", "official")

# Share of the visual tokens that budget methods keep at levels 0, 0.25, 0.5, 0.75 and 1.
_KEEP = (1.0, 0.5, 0.25, 0.1, 0.0)
_STEPS = (0.0, 0.25, 0.5, 0.75, 1.0)

# VisiPruner's settings at the same five levels for LLaVA-1.5; "balanced" is the paper's. A
# checkpoint that ships a `presets.json` brings its own. Those were calibrated as wholes, and what
# lies half-way between two may be worse than both: there a level takes the nearest.
_THRESHOLDS = {
    "relative": False,
    "layer_threshold": (0.5, 0.99, 0.995, 0.998, 0.9999),
    "tokens_threshold": (0.0, 0.1, 0.2, 0.4, 1.0),
    "exit_threshold": (1.0, 0.9995, 0.999, 0.995, 0.9),
}
_LLAVA = {
    "paper": {"shallow_layers": (7,) * 5, **_THRESHOLDS},
    "official": {"shallow_layers": (6,) * 5, **_THRESHOLDS},
}


def level_number(level: float | str) -> float:
    """0 (keep everything) to 1 (the hardest) for a preset's name or a number.

    Raises:
        Refused: one sentence with the value and what is allowed.
    """
    if isinstance(level, str) and level in PRESETS:
        return PRESETS[level]
    try:
        number = float(level) if isinstance(level, str) else level
    except ValueError:
        raise Refused(
            f"The level must be {', '.join(PRESETS)} or a number from 0 to 1, not "
            f"{reprlib.repr(level)}."
        ) from None
    return float(check_number("level", number, 0, 1))


def method_at(
    vlm: VLM,
    name: str,
    level: float | str = "balanced",
    semantics: str = "paper",
    num_visual: int | None = None,
    /,  # what a user overrides must not meet these names
    **overrides,
) -> PruningMethod:
    """The method of this name at this level for this model.

    Args:
        num_visual: visual tokens of the prompt, for methods with a budget; None: one picture.
        overrides: fields of the method that replace what the level says.

    Raises:
        Refused: for an unknown name, a level or field out of range.
    """
    check_choice("method", name, METHODS)
    check_choice("semantics", semantics, SEMANTICS)
    number = level_number(level)
    method = METHODS[name]
    values = _values(vlm, method, number, semantics, num_visual or math.prod(vlm.grid))
    known = [field.name for field in fields(method)]
    if overrides and not known:
        raise Refused(f"{name} has no fields that could be set.")
    for field_name in overrides:
        check_choice(f"field of {name}", field_name, known)
    return method(**{**values, **overrides})


def _values(vlm: VLM, method, level: float, semantics: str, num_visual: int) -> dict:
    layers = vlm.model.config.get_text_config().num_hidden_layers
    keep = round(num_visual * _between(_KEEP, level))
    if method is VisiPruner:
        return _visipruner(vlm, level, semantics)
    if method is FastV or method is Random:
        return {"keep": keep}
    if method is Schedule:
        # LLaVA-1.5 in the paper: 15 full layers of 32, the last one with visual tokens is 23.
        return {
            "keep": keep,
            "keep_after": round(layers * 15 / 32) - 1,
            "none_after": round(layers * 24 / 32) - 1 if level > 0 else None,
        }
    return {}


def _visipruner(vlm: VLM, level: float, semantics: str) -> dict:
    if level == 0:
        return {"semantics": semantics, "stages": (), "shallow_layers": 0}
    table = (vlm.presets or _LLAVA)[semantics]
    take = _nearest if vlm.presets else _between
    layers = vlm.model.config.get_text_config().num_hidden_layers
    values = _settings(table, level, take)
    # What the published code asks of the path's name: 13B has 40 layers.
    blind_half = semantics == "official" and layers == 40
    return {"semantics": semantics, "blind_half": blind_half, **values}


def _settings(table: dict, level: float, take) -> dict:
    """What a table says at a level; `take` chooses among its five values."""
    cosines = {
        name: 1 - take([1 - value for value in table[name]], level)
        for name in ("layer_threshold", "exit_threshold")
    }
    return {
        "stages": tuple(table.get("stages", STAGES)),
        "shallow_layers": _nearest(table["shallow_layers"], level),
        "relative": table["relative"],
        "cache_before_filter": table.get("cache_before_filter", "kept"),
        "tokens_threshold": take(table["tokens_threshold"], level),
        **cosines,
    }


def read_presets(folder: Path) -> dict | None:
    """A checkpoint's own settings for VisiPruner; None: it brings none.

    Read once, when the model is loaded: a damaged file must not wait for somebody's question.

    Raises:
        Refused: one sentence with the file and what is wrong in it.
    """
    path = folder / "presets.json"
    try:
        if not path.is_file():
            return None
        presets = json.loads(path.read_text())
        for semantics in SEMANTICS:
            if not isinstance(presets, dict) or not isinstance(presets.get(semantics), dict):
                raise Refused(f"it has no settings for {semantics!r}.")
            _check_table(presets[semantics], semantics)
    except (OSError, ValueError, RecursionError) as error:
        raise Refused(f"{path} is damaged: {error}") from None
    return presets


def _check_table(table: dict, semantics: str):
    for name in ("shallow_layers", "layer_threshold", "tokens_threshold", "exit_threshold"):
        values = table.get(name)
        if not isinstance(values, list) or len(values) != len(_STEPS):
            raise Refused(f"{name} of {semantics!r} must be a list of five numbers.")
        for value in values:
            check_number(f"each {name} of {semantics!r}", value, -1, 1e9)
    if not isinstance(table.get("stages", []), list):
        raise Refused(f"stages of {semantics!r} must be a list.")
    if not isinstance(table.get("relative"), bool):
        raise Refused(f"relative of {semantics!r} must be true or false.")
    # The method knows the ranges.
    for level in _STEPS:
        VisiPruner(semantics=semantics, **_settings(table, level, _nearest))


def _nearest(values, level: float):
    """That of the nearest given level."""
    return values[min(range(len(_STEPS)), key=lambda step: abs(_STEPS[step] - level))]


def _between(values, level: float) -> float:
    """Straight lines between the five given levels."""
    for step in range(len(_STEPS) - 1):
        low, high = _STEPS[step], _STEPS[step + 1]
        if level <= high:
            share = (level - low) / (high - low)
            return values[step] + share * (values[step + 1] - values[step])
    return values[-1]
