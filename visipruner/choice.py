"""From words to methods: NAME, NAME:LEVEL, NAME@TOKENS, NAME@25%, and stacks NAME+NAME.

The first method of a stack gets the level or budget; the others take their balanced level.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from visipruner.errors import Refused
from visipruner.files import named
from visipruner.inputs import check_choice, check_number
from visipruner.levels import Facts, level_number
from visipruner.methods import METHODS, PruningMethod
from visipruner.methods.base import BEFORE
from visipruner.methods.trained import IN_PRESETS, Trained, method_for
from visipruner.methods.visipruner import SEMANTICS, check_presets

MOST_CONTESTANTS = 4  # more sides are hard to compare at a glance
RENUMBER = "renumber"  # the field of methods that may renumber what stays (methods/base.py)
MOST_SYSTEM = 2_000  # characters of a checkpoint's own system sentence
Side = PruningMethod | tuple[PruningMethod, ...]  # a method, or a stack of them


@dataclass(frozen=True)
class Wish:
    """A person's choice: methods, and at most one of level, tokens and share."""

    names: tuple[str, ...]
    level: float | None = None
    tokens: float | None = None  # mean visual tokens per layer
    share: float | None = None  # the same as a share of the picture's tokens

    @property
    def name(self) -> str:
        return "+".join(self.names)


def parse(words: str) -> Wish:
    """Read "visionzip+visipruner@64", "fastv:gentle", "random@25%", "none".

    Raises:
        Refused: one sentence about the first thing that is wrong.
    """
    name, mark, wish = words.partition("@")
    if mark:
        names = names_of(name)
        is_share = wish.endswith("%")
        try:
            number = float(wish.removesuffix("%"))
        except ValueError:
            raise Refused(f"The budget of {name} must be a number, not {wish[:40]!r}.") from None
        if is_share:
            return Wish(names, share=check_number("the share", number, 0, 100) / 100)
        return Wish(names, tokens=check_number("the budget", number, 0, 1_000_000))
    name, mark, wish = words.partition(":")
    return Wish(names_of(name), level=level_number(wish) if mark else None)


def names_of(words: str) -> tuple[str, ...]:
    """The methods of "one+another"; a level or budget after it is ignored.

    Raises:
        Refused: an unknown name.
    """
    if not isinstance(words, str):
        check_choice("method", words, METHODS)
    names = tuple(words.partition("@")[0].partition(":")[0].split("+"))
    for name in names:
        check_choice("method", name, METHODS)
    return names


def parse_sides(words: Sequence[str]) -> tuple[Wish, ...]:
    """Read the sides of a comparison, the baseline first.

    Raises:
        Refused: not a list of words, no contestant or more than four, or as `parse`.
    """
    if not isinstance(words, list | tuple) or not all(isinstance(word, str) for word in words):
        raise Refused("The methods must be a list of words, like none, fastv:gentle, random@25%.")
    if not 2 <= len(words) <= 1 + MOST_CONTESTANTS:
        raise Refused(
            f"The methods must be a baseline and 1 to {MOST_CONTESTANTS} others to compare with "
            f"it, {1 + MOST_CONTESTANTS} words at most, not {len(words)}."
        )
    return tuple(parse(word) for word in words)


def make(wish: Wish, facts: Facts, given: Mapping | None = None) -> Side:
    """The method or stack that a wish means for a model and a prompt.

    Args:
        given: fields that replace the wish's settings: "field", in a stack "method.field".

    Raises:
        Refused: a budget below a method's least, an unknown field, a value out of range, a stack
            that contradicts itself, settings that are impossible for these facts.
    """
    _check_stack(wish.names)
    own = _by_method(wish.names, given or {})
    made = tuple(
        _one(METHODS[name], wish if number == 0 else Wish((name,)), facts, own[number])
        for number, name in enumerate(wish.names)
    )
    made[0].check_for(facts)  # what reaches a later method of a stack is not known yet
    if facts.scheduled:
        for method in made:
            method.check_span(facts)
    return made if len(made) > 1 else made[0]


def _check_stack(names: Sequence[str]):
    for name in names:
        if names.count(name) > 1:
            raise Refused(f"{short_title(name)} stands twice in the stack.")
        if METHODS[name].whole and name != names[0]:
            raise Refused(
                f"{short_title(name)} needs the whole picture: in a stack it comes first."
            )


def _one(kind: type[PruningMethod], wish: Wish, facts: Facts, given: dict) -> PruningMethod:
    known = [field.name for field in fields(kind)]
    if given and not known:
        raise Refused(f"{kind.name} has no fields that could be set.")
    for name in given:
        check_choice(f"field of {kind.name}", name, known)
    tokens = wish.tokens if wish.share is None else wish.share * facts.num_visual
    level = level_number("balanced") if wish.level is None else wish.level
    method = method_for(kind, level if tokens is None else None, tokens, facts, given)
    if not facts.renumbers and RENUMBER in known:
        given = {RENUMBER: False, **given}  # who asks for it by name is refused by the engine
    if not given:
        return method
    values = {name: getattr(method, name) for name in known}
    return kind(**{**values, **given})


def _by_method(names: tuple[str, ...], given: Mapping) -> list[dict]:
    if len(names) == 1:
        return [{name.removeprefix(f"{names[0]}."): value for name, value in given.items()}]
    found: list[dict] = [{} for _ in names]
    for key, value in given.items():
        owner, dot, field = key.partition(".")
        if not dot or owner not in names:
            raise Refused(
                f"In a stack a setting is METHOD.FIELD with one of {', '.join(names)}, "
                f"not {key[:40]!r}."
            )
        found[names.index(owner)][field] = value
    return found


def method_at(
    vlm,
    name: str,
    level: float | str = "balanced",
    semantics: str = "paper",
    num_visual: int | None = None,
    /,  # positional only, so that a user's overrides may have these names
    **overrides,
) -> Side:
    """The method or stack of this name, or wish, at this level for a loaded model.

    Args:
        name: as `parse` reads it; a level or budget in it overrides `level`.
        vlm: a `VLM`; its `facts` define what a level means.
        semantics: VisiPruner's, unless `overrides` name another.
        num_visual: visual tokens of the prompt; None: of one picture.
        overrides: fields that replace the level's settings.

    Raises:
        Refused: the name is unknown, or a level or field is out of range.
    """
    wish = parse(name) if isinstance(name, str) else Wish(names_of(name))
    check_choice("semantics", semantics, SEMANTICS)
    if semantics != "paper" and "visipruner" in wish.names:
        field = "semantics" if len(wish.names) == 1 else "visipruner.semantics"
        overrides.setdefault(field, semantics)
    if wish.level is None and wish.tokens is None and wish.share is None:
        wish = Wish(wish.names, level=level_number(level))
    return make(wish, vlm.facts(num_visual), overrides)


def sides_at(
    vlm,
    words: Sequence,
    level: float | str = "balanced",
    semantics: str = "paper",
    num_visual: int | None = None,
    /,
    **overrides,
) -> list[Side]:
    """The sides of a comparison, made from words like `method_at`, the baseline first.

    Args:
        overrides: fields for all sides but the baseline. With several such sides they are
            METHOD.FIELD, and apply to every side with this method.

    Raises:
        Refused: as `method_at`; with several such sides it begins with one side's title.
    """
    baseline, *others = words
    wished = level, semantics, num_visual
    sides = [method_at(vlm, baseline, *wished)]
    for side in others:
        own = overrides if len(others) == 1 else fields_of(side, overrides)
        try:
            sides.append(method_at(vlm, side, *wished, **own))
        except Refused as error:
            if len(others) == 1:
                raise
            raise Refused(f"{brief_title(side)}: {error}") from None
    return sides


def fields_of(words: str, given: Mapping) -> dict:
    """The METHOD.FIELD entries for the methods of "one+another"."""
    names = names_of(words)
    return {key: value for key, value in given.items() if key.partition(".")[0] in names}


def kinds_of(sides: Iterable[str]) -> list[type[PruningMethod]]:
    """The classes of all methods in these sides, such as "none" and "pool+visipruner@64".

    Raises:
        Refused: an unknown name.
    """
    return [METHODS[name] for side in sides for name in names_of(side)]


def methods_of(side: Side) -> tuple[PruningMethod, ...]:
    """The methods of a side, one or several."""
    return side if isinstance(side, tuple) else (side,)


def title_of(name: str) -> str:
    """The page's name of a method or stack: "VisionZip, then VisiPruner"."""
    names = names_of(name)
    return METHODS[names[0]].title if len(names) == 1 else brief_title(name)


def brief_title(name: str) -> str:
    """The same, but a single method has no rule: "FastV"."""
    return ", then ".join(short_title(one) for one in names_of(name))


def short_title(name: str) -> str:
    """The title without its rule: "FastV"."""
    return METHODS[name].title.partition(":")[0]


def menu() -> list[tuple[str, str]]:
    """(title, name) of every method, and of every stack "before layer 0, then VisiPruner"."""
    single = [(kind.title, name) for name, kind in METHODS.items()]
    first = [name for name, kind in METHODS.items() if kind.where == BEFORE]
    stacks = [f"{name}+visipruner" for name in first]
    return [*single, *((title_of(name), name) for name in stacks)]


def settings_of_side(side: Side) -> dict:
    """Every setting, named as in `PruningTrace.settings`."""
    methods = methods_of(side)
    if len(methods) == 1:
        return methods[0].settings
    return {f"{m.name}.{field}": value for m in methods for field, value in m.settings.items()}


def name_of(side: Side) -> str:
    """The name as in `PruningTrace.method`."""
    return "+".join(method.name for method in methods_of(side))


def read_presets(folder: Path) -> dict | None:
    """A checkpoint's own settings for VisiPruner, system sentence and schedule; None: it has none.

    The field `system` is the sentence that the checkpoint was trained with (templates.py); empty:
    it had none. The field `schedule` names the layers that it was trained to compute visual tokens
    in (methods/trained.py). Settings, `system` and `schedule` may each appear alone.

    Read once, when the model is loaded, so that a damaged file fails before a visitor asks.

    Raises:
        Refused: one sentence with the file and what is wrong in it.
    """
    path = folder / "presets.json"
    if not os.path.isfile(path):
        return None
    return _read_presets(path, f"In {named(folder)}, presets.json", own=True)


def read_presets_file(path: Path, name: str) -> dict:
    """Settings for VisiPruner from any file.

    Raises:
        Refused: one sentence with the file's name and what is wrong in it.
    """
    if not os.path.isfile(path):
        raise Refused(f"There is no file {name} with presets.")
    return _read_presets(path, name)


def _read_presets(path: Path, name: str, own: bool = False) -> dict:
    """Args:
    own: it is a checkpoint's own file, which may hold the system sentence alone.
    """
    try:
        presets = json.loads(path.read_text(encoding="utf-8"))
        named_alone = isinstance(presets, dict) and presets.keys() & {"system", IN_PRESETS}
        if named_alone:
            _check_system(presets.get("system", ""))
            Trained.of(presets)
        if not (own and named_alone) or presets.keys() & set(SEMANTICS):
            check_presets(presets)
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or error  # str() of an OSError holds the path
        raise Refused(f"{name} is damaged: {reason}") from None
    return presets


def _check_system(system):
    if not isinstance(system, str):
        raise Refused(f"system must be text, not a value of type {type(system).__name__}.")
    if len(system) > MOST_SYSTEM:
        raise Refused(
            f"system has {len(system):,} characters; at most {MOST_SYSTEM:,} are allowed."
        )
    if any("\ud800" <= letter <= "\udfff" for letter in system):
        raise Refused("system holds half a letter, which no tokenizer can read.")
