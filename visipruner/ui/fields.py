"""One input for every field of every method; empty means: as the level says."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields

import gradio as gr

from visipruner.errors import Refused, quoted
from visipruner.inputs import check_choice
from visipruner.levels import method_at
from visipruner.methods import METHODS
from visipruner.ui import text

CHOICES = {
    "stages": {
        "shallow, middle, deep": ["shallow", "middle", "deep"],
        "middle, deep": ["middle", "deep"],
        "shallow, middle": ["shallow", "middle"],
        "middle": ["middle"],
        "shallow": ["shallow"],
        "none": [],
    },
    "cache_before_filter": {"kept": "kept", "full": "full"},
    "relative": {"yes": True, "no": False},
    "blind_half": {"yes": True, "no": False},
}
SHOWN_ELSEWHERE = ("semantics",)


def names_of(method: str) -> list[str]:
    """The fields that the page shows for a method."""
    return [f.name for f in fields(METHODS[method]) if f.name not in SHOWN_ELSEWHERE]


ALL = [(method, name) for method in METHODS for name in names_of(method)]


def widget(name: str):
    """An input for one field."""
    label, info = text.FIELDS[name], text.FIELD_INFO.format(name=name)
    if name in CHOICES:
        return gr.Dropdown(choices(name), value="", label=label, info=info)
    # Not gr.Number: it turns "nothing" into 0 as soon as it is shown.
    return gr.Textbox("", label=label, info=info, placeholder=text.FROM_LEVEL, max_lines=1)


def choices(name: str, hint: str = "") -> list[tuple[str, str]]:
    """What a field with few values offers; first of all what the level says."""
    first = f"{text.FROM_LEVEL}: {hint}" if hint else text.FROM_LEVEL
    return [(first, ""), *((word, word) for word in CHOICES[name])]


def overrides(method: str, values: list) -> dict:
    """The fields of `method` that were filled in; `values` stand in the order of ALL."""
    given = {}
    for (owner, name), value in zip(ALL, values, strict=False):
        if owner != method or value is None or value == "":
            continue
        if name in CHOICES:
            value = CHOICES[name][check_choice(f"“{text.FIELDS[name]}”", value, CHOICES[name])]
        else:
            value = _number(name, value)
        given[name] = value
    return given


def _number(name: str, value) -> float | int:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise Refused(f"“{text.FIELDS[name]}” must be a number, not {quoted(value)}.") from None
    whole = number.is_integer() and not name.endswith("_threshold")
    return int(number) if whole else number


def in_words(sentence: str, names: Iterable[str]) -> str:
    """A refusal of a field by its name on the page, where it begins with its name in code."""
    for name in names:
        if sentence.startswith(f"{name} must"):
            return f"“{text.FIELDS[name]}”{sentence.removeprefix(name)}"
    return sentence


def hints(vlm, method: str, level, semantics: str) -> dict[str, str]:
    """What the level says for each field, for the placeholders."""
    settings = method_at(vlm, method, level, semantics).settings
    return {name: _shown(settings[name]) for name in names_of(method)}


def _shown(value) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (tuple, list)):
        return ", ".join(value) or "none"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
