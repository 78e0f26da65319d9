"""VisiPruner's calibrated levels of a model: which file has them, and what is said without one.

`python -m visipruner calibrate MODEL ...` writes such a file. A model takes, in this order, the
file that the user names, presets.json in its own folder, and NAME.presets.json in
VISIPRUNER_MODEL_DIR.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from visipruner.choice import Side, methods_of, read_presets_file
from visipruner.errors import Refused
from visipruner.files import shown
from visipruner.levels import PRESETS
from visipruner.methods import VisiPruner
from visipruner.methods.visipruner import SEMANTICS

ENDING = ".presets.json"
PAPERS_OWN = ("llava-1.5-7b", "llava-1.5-13b")  # whose thresholds the paper gives, as "balanced"
MADE = "made"  # the field that says how a file was made


def find_presets(name: str, own: Mapping | None, given: Path | None) -> dict | None:
    """The presets of a model: its folder's, with the settings of another file if one is meant.

    Args:
        name: of the model.
        own: what the model's folder has (`choice.read_presets`): settings, a sentence or both.
        given: the file that the user names.

    Raises:
        Refused: the file is missing or damaged.
    """
    path = given
    if given is None and not is_calibrated(own):
        path = shelf_file(name)
    if path is None or (given is None and not os.path.isfile(path)):
        return None if own is None else dict(own)
    return {**(own or {}), **read_presets_file(path, shown(path))}


def model_named_in(path: Path) -> str | None:
    """The model that a file was made for; None: it does not say.

    Raises:
        Refused: the file is missing or damaged.
    """
    made = read_presets_file(path, shown(path)).get(MADE)
    name = made.get("model") if isinstance(made, Mapping) else None
    return name if isinstance(name, str) else None


def shelf_file(name: str) -> Path | None:
    """Where a model's own file is looked for; None: VISIPRUNER_MODEL_DIR is not set."""
    shelf = os.environ.get("VISIPRUNER_MODEL_DIR")
    return Path(shelf, f"{name}{ENDING}") if shelf else None


def is_calibrated(presets: Mapping | None, semantics: str = "paper") -> bool:
    """Are there settings for VisiPruner's levels?"""
    return bool((presets or {}).get(semantics))


def check_made_for(presets: Mapping | None, kind: str, layers: int, title: str):
    """Check that a file was made for a model like this one, as far as it says.

    Args:
        kind: the model's `config.model_type`.

    Raises:
        Refused: both, in one sentence.
    """
    made = (presets or {}).get(MADE)
    if not isinstance(made, Mapping):
        return
    other = made.get("kind", kind), made.get("layers", layers)
    if other != (kind, layers):
        raise Refused(
            f"The presets were made for a model of kind {str(other[0])[:40]} with "
            f"{str(other[1])[:8]} layers; {title} is {kind} with {layers}."
        )


def uncalibrated(vlm, sides: Iterable[Side]) -> str:
    """What must be said of sides whose level was never calibrated for this model; else empty.

    Args:
        vlm: a `VLM`.
    """
    pruners = [one for side in sides for one in methods_of(side) if isinstance(one, VisiPruner)]
    found = [one for one in pruners if one.stages]  # without any, it keeps everything
    found = [one for one in found if not is_calibrated(vlm.presets, one.semantics)]
    if vlm.spec.name in PAPERS_OWN:
        found = [one for one in found if one not in _papers_own(vlm)]
    if not found:
        return ""
    return (
        f"Not calibrated: VisiPruner's levels were never measured on {vlm.spec.title}, so they may "
        "prune it too hard or hardly at all. `python -m visipruner calibrate MODEL --pictures DIR` "
        "finds its own."
    )


def _papers_own(vlm) -> list[VisiPruner]:
    level, facts = PRESETS["balanced"], vlm.facts()
    theirs = (one for one in SEMANTICS if one != "question")  # which is ours
    return [VisiPruner.at_level(level, facts, {"semantics": one}) for one in theirs]
