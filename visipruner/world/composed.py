"""A composed scene and its value for the browser; a value from the browser is checked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, replace

from visipruner.errors import Refused
from visipruner.inputs import check_choice, check_number
from visipruner.world.scenes import (
    COLOURS,
    DIGIT,
    DIGIT_RADIUS,
    MAX_SHAPES,
    PLACES,
    SHAPES,
    SIDE,
    SIZES,
    SPLITS,
    Scene,
    Thing,
    compose,
)

_MOST_SCALE = 1.2  # times a size's radius; seeded scenes stay within 1.08
_LARGEST_SEED = 2**31 - 1


def composer_props() -> dict:
    """The world's words and sizes, so that the composer defines none itself."""
    return {
        "shapes": [*SHAPES, DIGIT],
        "colours": {name: f"rgb{rgb}" for name, rgb in COLOURS.items()},
        "sizes": dict(SIZES),
        "digit_radius": DIGIT_RADIUS,
        "digits": {str(digit): index for digit, index in _one_of_each_digit().items()},
        "places": [list(row) for row in PLACES],
        "side": SIDE,
        "most": MAX_SHAPES,
    }


def composer_value(scene: Scene) -> dict:
    """The composer's value for a scene, so that a visitor can change a seeded scene."""
    things = [{**asdict(thing), "digit": thing.digit} for thing in scene.things]
    return {"things": things, "seed": scene.seed % _LARGEST_SEED}


def scene_of(value) -> Scene:
    """The composed scene, checked, because the value comes from a browser.

    Raises:
        Refused: one plain sentence.
    """
    things = value.get("things") if isinstance(value, Mapping) else None
    if not isinstance(things, list) or not things:
        raise Refused("The scene is empty; place at least one shape.")
    if len(things) > MAX_SHAPES:
        raise Refused(f"A scene holds at most {MAX_SHAPES} shapes, not {len(things)}.")
    seed = check_number("seed", value.get("seed", 0), 0, _LARGEST_SEED, integer=True)
    return compose([_thing(data) for data in things], seed)


def _thing(data) -> Thing:
    if not isinstance(data, Mapping):
        raise Refused("Every shape needs a shape, a colour, a size and a place.")
    shape = check_choice("shape", data.get("shape"), (*SHAPES, DIGIT))
    number = {
        "x": check_number("x", data.get("x"), 0, SIDE),
        "y": check_number("y", data.get("y"), 0, SIDE),
        "scale": check_number("scale", data.get("scale", 1.0), 1 / _MOST_SCALE, _MOST_SCALE),
        "angle": check_number("angle", data.get("angle", 0.0), -math.pi, math.pi),
    }
    number = {name: float(value) for name, value in number.items()}
    if shape == DIGIT:
        digit = check_choice("digit", data.get("digit"), tuple(_one_of_each_digit()))
        card = Thing(DIGIT, "", "", **number)
        index = data.get("digit_index")
        wanted = isinstance(index, int) and 0 <= index < SPLITS["heldout"].digits.stop
        if wanted and replace(card, digit_index=index).digit == digit:
            return replace(card, digit_index=index)
        return replace(card, digit_index=_one_of_each_digit()[digit])
    colour = check_choice("colour", data.get("colour"), COLOURS)
    return Thing(shape, colour, check_choice("size", data.get("size"), SIZES), **number)


def _one_of_each_digit() -> dict[int, int]:
    """One image of each digit, from those that the model was not trained on."""
    card = Thing(DIGIT, "", "", 0.0, 0.0)
    found: dict[int, int] = {}
    for index in SPLITS["heldout"].digits:
        found.setdefault(replace(card, digit_index=index).digit, index)
    return dict(sorted(found.items()))
