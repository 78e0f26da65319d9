"""One input for every setting of every method; an empty input leaves the value to the level."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence

import gradio as gr

from visipruner.choice import brief_title, fields_of, method_at, methods_of, names_of
from visipruner.errors import Refused
from visipruner.methods import METHODS
from visipruner.settings import FLAG, NONE, YES_OR_NO, Setting, settings_of
from visipruner.ui import curve_words, text

MOST_TYPED = 1_000  # characters in one input
SHOWN_ELSEWHERE = ("semantics",)


def of(method: str) -> dict[str, Setting]:
    """A method's settings on the page, by field name."""
    found = settings_of(METHODS[method])
    return {name: one for name, one in found.items() if name not in SHOWN_ELSEWHERE}


ALL = [(method, name) for method in METHODS for name in of(method)]


def setting(method: str, name: str) -> Setting:
    return of(method)[name]


def options(one: Setting) -> dict:
    """Label -> value of a setting with few values; empty if any number may be typed."""
    return YES_OR_NO if one.kind == FLAG else dict(one.options)


def widget(method: str, name: str):
    """An input for one setting."""
    one = setting(method, name)
    info = text.FIELD_INFO.format(name=name)
    if options(one):
        return gr.Dropdown(choices(one), value="", label=one.words, info=info)
    # Not gr.Number: it turns None into 0 as soon as it is shown.
    return gr.Textbox("", label=one.words, info=info, placeholder=text.FROM_LEVEL, max_lines=1)


def choices(one: Setting, hint: str = "") -> list[tuple[str, str]]:
    """The choices of a setting with few values; the first one is the level's value."""
    first = f"{text.FROM_LEVEL}: {hint}" if hint else text.FROM_LEVEL
    return [(first, ""), *((word, word) for word in options(one))]


def typed(method: str, name: str, value) -> str:
    """The value as its input holds it: the words of a choice, or numbers without any rounding.

    Raises:
        Refused: the setting has choices, and the value is none of them.
    """
    one = setting(method, name)
    if value is None:
        return NONE
    if not options(one):
        several = value if isinstance(value, list | tuple) else [value]
        return ", ".join(map(json.dumps, several))
    meant = tuple(value) if isinstance(value, list) else value
    for words, option in options(one).items():
        if type(option) is type(meant) and option == meant:
            return words
    raise Refused(curve_words.NO_SUCH_SETTING.format(name=one.words))


def overrides(sides: Sequence[str], given: Mapping) -> dict:
    """The settings that were filled in: by FIELD for a single method, else by METHOD.FIELD.

    Args:
        sides: methods or stacks.
        given: the typed values, by METHOD.FIELD; other methods and other names are ignored.

    Raises:
        Refused: one sentence that calls the setting as the page does.
    """
    filled, names = {}, [name for side in sides for name in names_of(side)]
    for owner, name in ALL:
        value = given.get(f"{owner}.{name}")
        if owner in names and value is not None and value != "":
            if isinstance(value, str) and len(value) > MOST_TYPED:
                words, length = setting(owner, name).words, len(value)
                raise Refused(
                    text.TYPED_TOO_LONG.format(name=words, length=length, most=MOST_TYPED)
                )
            key = name if len(names) == 1 else f"{owner}.{name}"
            filled[key] = setting(owner, name).parse(value)
    return filled


def in_words(sentence: str, methods: Sequence[str], names: Iterable[str]) -> str:
    """Replace the setting's name in code at the start of a refusal by its words on the page.

    Args:
        methods: the chosen methods or stacks; their titles may stand before the name.
        names: the settings that were filled in, by FIELD or METHOD.FIELD.
    """
    for method in methods if len(methods) > 1 else ():
        title = f"{brief_title(method)}: "
        if sentence.startswith(title):
            own = fields_of(method, dict.fromkeys(names))
            return title + in_words(sentence.removeprefix(title), [method], own)
    for key in names:
        owner, _, name = key.rpartition(".")
        owner = owner or methods[0]
        for start in (name, f"each of {name}"):
            if sentence.startswith(f"{start} must") and name in of(owner):
                return f"“{setting(owner, name).words}”{sentence.removeprefix(start)}"
    return sentence


def hints(vlm, method: str, level, semantics: str) -> dict[tuple[str, str], str]:
    """The level's value for each setting, by (method, name); empty if the level is refused."""
    try:
        made = methods_of(method_at(vlm, method, level, semantics))
    except Refused:
        return {}
    return {
        (one.name, name): field.show(getattr(one, name))
        for one in made
        for name, field in of(one.name).items()
    }
