"""A method's settings: their words, range and kind; how they are checked, typed and shown."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from visipruner.errors import Refused
from visipruner.inputs import check_choice, check_number

INT, NUMBER, INTS, NUMBERS, CHOICE, CHOICES, FLAG = (
    "whole number",
    "number",
    "whole numbers",
    "numbers",
    "choice",
    "choices",
    "yes or no",
)
YES_OR_NO = {"yes": True, "no": False}
NONE = "none"  # None, as typed and shown


@dataclass(frozen=True)
class Setting:
    """The values that a person may choose for one field.

    Args:
        words: the field's name on the page.
        kind: one of the constants above.
        low, high: the least and the greatest number.
        options: for a choice: words on the page -> value; for choices: -> the chosen parts.
        optional: None is allowed too.
    """

    words: str
    kind: str
    low: float = 0
    high: float = 0
    options: Mapping[str, object] = field(default_factory=dict)
    optional: bool = False

    def check(self, name: str, value):
        """The value in its own type: 100.0 as 100, a list as a tuple.

        Raises:
            Refused: names the field, the value and what is allowed.
        """
        if self.optional and (value is None or _is_none(value)):
            return None
        if self.kind == FLAG:
            if not isinstance(value, bool):
                raise Refused(f"{name} must be true or false, not {_short(value)}.")
            return value
        if self.kind == CHOICE:
            return check_choice(name, value, self.options.values())
        if self.kind == CHOICES:
            known = dict.fromkeys(part for option in self.options.values() for part in option)
            parts = value.split(",") if isinstance(value, str) else value
            parts = [part for part in self._each(name, parts) if part != ""]
            return tuple(check_choice(f"each of {name}", part, known) for part in parts)
        whole = self.kind in (INT, INTS)
        if self.kind in (INT, NUMBER):
            return check_number(name, value, self.low, self.high, integer=whole)
        return tuple(
            check_number(f"each of {name}", part, self.low, self.high, integer=whole)
            for part in self._each(name, value)
        )

    def _each(self, name: str, value) -> list | tuple:
        if not isinstance(value, (list, tuple)):
            raise Refused(f"{name} must be a list, not {_short(value)}.")
        return value

    def parse(self, typed):
        """The value of typed text: the words of a choice, "8, 16, 24", "none".

        Raises:
            Refused: the text is no number, but the setting needs one.
        """
        if not isinstance(typed, str):
            return typed
        typed = typed.strip()
        if self.optional and _is_none(typed):
            return None
        options = YES_OR_NO if self.kind == FLAG else self.options
        if options:
            if typed not in options:
                allowed = "; ".join(options)
                raise Refused(f"“{self.words}” must be one of {allowed}, not {_short(typed)}.")
            return options[typed]
        if self.kind in (INTS, NUMBERS):
            return tuple(self._number(part) for part in typed.strip("[]()").split(",") if part)
        return self._number(typed)

    def _number(self, typed: str) -> float | int:
        try:
            return json.loads(typed.strip())
        except ValueError:
            raise Refused(f"“{self.words}” must be {self._kind()}, not {_short(typed)}.") from None

    def _kind(self) -> str:
        return self.kind if self.kind in (INTS, NUMBERS) else f"a {self.kind}"

    def show(self, value) -> str:
        """The value as a person would type it."""
        if value is None:
            return NONE
        if isinstance(value, (tuple, list)):
            return ", ".join(map(self.show, value)) or NONE
        options = YES_OR_NO if isinstance(value, bool) else self.options
        for words, meant in options.items():
            if type(meant) is type(value) and meant == value:
                return words
        return f"{value:g}" if isinstance(value, float) else str(value)


def setting(default, words: str, kind: str, **more):
    """A dataclass field that a person may set: `keep: int = setting(144, "Tokens kept", INT)`."""
    return field(default=default, metadata={"setting": Setting(words, kind, **more)})


def settings_of(owner) -> dict[str, Setting]:
    """The settings of a dataclass or an instance, by field name."""
    found = {f.name: f.metadata.get("setting") for f in dataclasses.fields(owner)}
    return {name: setting for name, setting in found.items() if setting is not None}


def check_settings(owner):
    """Check every setting of a frozen dataclass, and store each in its own type.

    Raises:
        Refused: as `Setting.check`.
    """
    for name, one in settings_of(owner).items():
        object.__setattr__(owner, name, one.check(name, getattr(owner, name)))


def _is_none(value) -> bool:
    """Is this the word that a person types for None?"""
    return isinstance(value, str) and value.lower() == NONE


def _short(value) -> str:
    if isinstance(value, str):
        return f"“{value[:39]}…”" if len(value) > 40 else f"“{value}”"
    if isinstance(value, int | float):
        return str(value)[:40]
    return "nothing" if value is None else f"a value of type {type(value).__name__}"
