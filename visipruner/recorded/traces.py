"""The trace of a saved run, checked: nothing that draws it may meet a value that it cannot draw."""

from __future__ import annotations

import dataclasses
import re
from collections import ChainMap
from collections.abc import Container
from itertools import pairwise

from visipruner.errors import Refused, quoted
from visipruner.methods import METHODS
from visipruner.methods.trained import Trained
from visipruner.recorded.checked import Node, same_length
from visipruner.settings import CHOICE, CHOICES, FLAG, INT, INTS, NUMBERS, settings_of
from visipruner.trace import TRAINED, PruningTrace

MOST_TOKENS = 1_000_000  # of a prompt
MOST_LAYERS = 500
MOST_STEPS = 10_000  # decoded tokens
_STAGE = re.compile(r"[\w -]{0,40}")
# Every story of a trace is of one of these; the model brings its own schedule itself.
_TOLD = ChainMap(METHODS, {TRAINED: Trained})  # a view: a method that comes later is in it
_ANYWHERE = {name for method in _TOLD.values() for name in settings_of(method)}
_NOTES = ("filtering_layer", "exit_layer")  # a layer each; other notes are not drawn


def read_trace(node: Node) -> PruningTrace:
    """A trace, from files of all ages.

    Raises:
        Refused: one sentence about the first wrong value.
    """
    length = node.get("length").whole(0, MOST_TOKENS)
    visual = node.get("num_visual").whole(0, length)
    layers = [
        _layer(one, number, length, visual)
        for number, one in enumerate(node.get("layers").each(MOST_LAYERS, least=1))
    ]
    data = {
        "length": length,
        "num_visual": visual,
        "spans": _spans(node.get("spans"), length, visual),
        "grids": _grids(node.get("grids"), visual),
        "layers": layers,
        "prefill_logits": node.get("prefill_logits").whole(0, length),
        **_decoding(node, len(layers)),
        **_stories(node),
    }
    if door := node.find("door_flops"):
        data["door_flops"] = door.whole()
    count = len(data.get("stories", [0]))
    data["cuts"] = _cuts(node.get("cuts"), len(layers), visual, count)
    return PruningTrace.from_json(data)


def _spans(node: Node, length: int, visual: int) -> list:
    spans = [one.wholes(0, length, 2) for one in node.each(MOST_TOKENS)]
    edges = [edge for span in spans for edge in span]
    ascend = all(a < b if at % 2 == 0 else a <= b for at, (a, b) in enumerate(pairwise(edges)))
    if any(len(span) != 2 for span in spans) or not ascend:
        raise node.refuse("ascending pairs of positions")
    if sum(stop - start for start, stop in spans) != visual:
        raise node.refuse(f"spans of {visual} visual tokens in all")
    return spans


def _grids(node: Node, visual: int) -> list:
    grids = [one.wholes(1, MOST_TOKENS, 2) for one in node.each(1000)]
    if any(len(grid) != 2 for grid in grids):
        raise node.refuse("pairs of rows and columns")
    if grids and sum(rows * columns for rows, columns in grids) != visual:
        raise node.refuse(f"grids of {visual} patches in all")
    return grids


def _decoding(node: Node, layers: int) -> dict:
    steps = node.get("decode_kv").each(MOST_STEPS)
    found = [step.wholes(0, MOST_TOKENS, layers) for step in steps]
    places = node.get("decode_positions").wholes(0, MOST_TOKENS, MOST_STEPS)
    return {"decode_kv": found, "decode_positions": places}


# -- layers and cuts


def _layer(node: Node, number: int, length: int, visual: int) -> dict:
    node.get("layer").whole(number, number)
    data = {"layer": number, "stage": stage_of(node.get("stage")), "influence": None}
    data["tokens"] = node.get("tokens").whole(0, 2 * MOST_TOKENS)
    data["visual_tokens"] = node.get("visual_tokens").whole(0, data["tokens"])
    for name in ("pairs", "visual_pairs", "probe_flops", "kv_tokens"):
        data[name] = node.get(name).whole()
    if tested := node.find("influence"):
        data["influence"] = _influence(tested, visual)
    return data


def _influence(node: Node, visual: int) -> dict:
    parts = {name: node.get(name) for name in ("patches", "cos", "l2")}
    data = {
        "patches": parts["patches"].wholes(-2, visual - 1, MOST_TOKENS),  # below 0: no patch
        "cos": parts["cos"].numbers(-1.01, 1.01, MOST_TOKENS),
        "l2": parts["l2"].numbers(0, 1e30, MOST_TOKENS),
        "norm": node.get("norm").number(),
    }
    if told := node.find("on_question"):
        data["on_question"] = told.flag()
    if not data["patches"]:
        raise parts["patches"].refuse("a list with at least one patch")
    for name in ("cos", "l2"):
        same_length(data[name], data["patches"], parts[name])
    return data


def _cuts(node: Node, layers: int, visual: int, stories: int) -> list:
    cuts = [_cut(one, layers, visual, stories) for one in node.each(10 * MOST_LAYERS)]
    if any(a["after_layer"] > b["after_layer"] for a, b in pairwise(cuts)):
        raise node.refuse("in the order of the layers")
    return cuts


def _cut(node: Node, layers: int, visual: int, stories: int) -> dict:
    data = {
        "after_layer": node.get("after_layer").whole(-1, layers - 1),
        "stage": stage_of(node.get("stage")),
        "kept": node.get("kept").wholes(0, visual - 1, visual),
        "owner": node.get("owner").wholes(-1, 2 * MOST_TOKENS, visual),
    }
    if len(set(data["kept"])) != len(data["kept"]):
        raise node.get("kept").refuse("a list without a patch twice")
    same_length(data["owner"], range(visual), node.get("owner"))
    if scores := node.find("scores"):
        data["scores"] = scores.numbers(-1e30, 1e30, MOST_TOKENS)
    if by := node.find("by"):
        data["by"] = by.whole(0, stories - 1)
    if ids := node.find("visual"):
        data["visual"] = ids.wholes(0, 2 * MOST_TOKENS, MOST_TOKENS)
    return data


def stage_of(node: Node) -> str:
    """A stage's name, which becomes a class of the style sheet and a part of sentences."""
    words = node.words(40)
    if not _STAGE.fullmatch(words):
        raise node.refuse("the name of a stage")
    return words


# -- methods


def _stories(node: Node) -> dict:
    """The stories of a stack; or what files held that were written before there were stacks."""
    if stories := node.find("stories"):
        told = [_story(one) for one in stories.each(len(_TOLD), least=1)]
        names = [story["name"] for story in told]
        if TRAINED in names[:-1] or names == [TRAINED]:  # the engine stacks it, as the last one
            raise stories.refuse("methods, and at most one schedule of the model's own at the end")
        return {"stories": told}
    others = ("calm_layers", "attention_free_layers")
    old = {name: one.plain() for name in others if (one := node.find(name))}
    name = _method(node.get("method"), METHODS)
    return {
        "method": name,
        "settings": _settings(node.get("settings"), name),
        "why": node.get("why").words(5_000),
        **old,
        **_layers_of_notes(node),
    }


def _story(node: Node) -> dict:
    name, notes = _method(node.get("name"), _TOLD), node.find("notes")
    return {
        "name": name,
        "settings": _settings(node.get("settings"), name),
        "why": node.get("why").words(5_000),
        "notes": {} if notes is None else {**_object(notes), **_layers_of_notes(notes)},
    }


def _layers_of_notes(node: Node) -> dict:
    found = {name: node.find(name) for name in _NOTES}
    return {name: one.whole(-1, MOST_LAYERS) for name, one in found.items() if one}


def _method(node: Node, known: Container[str]) -> str:
    name = node.words(100)
    if name not in known:
        raise Refused(f"This saved run is of a method that is not known here: {quoted(name)}.")
    return name


def _settings(node: Node, method: str) -> dict:
    """A method's settings, each of its kind; ranges and names may have changed since the run."""
    kinds, data = settings_of(_TOLD[method]), _object(node)
    known = {field.name for field in dataclasses.fields(_TOLD[method])}
    for name, value in data.items():
        one = node.get(name) if value is not None else Node(None, f"{node.place}.{name}")
        if name not in known and name in _ANYWHERE:  # it would be drawn as the other method's
            raise Refused(f"This saved run is damaged: {method} has no setting {quoted(name)}.")
        if name in kinds and not _fits(kinds[name], value):
            raise one.refuse(f"a setting of its kind ({kinds[name].kind})")
        if name in known - kinds.keys() and not isinstance(value, int | float | str | None):
            raise one.refuse("a single value")
    return data


def _fits(setting, value) -> bool:
    if value is None:
        return setting.optional
    if setting.kind == FLAG:
        return isinstance(value, bool)
    if setting.kind == CHOICE:
        return isinstance(value, int | float | str)
    if setting.kind == CHOICES:
        return isinstance(value, list) and all(isinstance(one, str) for one in value)
    several = setting.kind in (INTS, NUMBERS)
    if several != isinstance(value, list):
        return False
    kind = int if setting.kind in (INT, INTS) else int | float
    parts = value if several else [value]
    return all(isinstance(one, kind) and not isinstance(one, bool) for one in parts)


def _object(node: Node) -> dict:
    if not isinstance(node.value, dict):
        raise node.refuse("an object")
    return node.plain()
