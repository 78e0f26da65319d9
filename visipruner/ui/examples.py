"""Examples as small pictures that are buttons, with alternative text for screen readers."""

from __future__ import annotations

import functools
import json
from html import escape

import gradio as gr

from visipruner.render.values import picture_uri
from visipruner.ui import text
from visipruner.world import sources
from visipruner.world.questions import asked_for
from visipruner.world.scenes import ASSETS

# Chosen by a rule from the middle of what pruning does (evaluation/typical.py), first one first.
FILE = ASSETS / "tiny-llava" / "examples.json"

_ON_LOAD = """
element.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-number]");
  if (button) trigger("select", { number: Number(button.dataset.number) });
});
"""


@functools.cache
def chosen() -> tuple[tuple[int, str], ...]:
    """(scene number, question) of every example."""
    found = []
    for line in json.loads(FILE.read_text("utf-8"))["examples"]:
        known = next(q for q in sources.questions(line["scene"]) if q.skill == line["skill"])
        found.append((line["scene"], asked_for(known, True).text))
    return tuple(found)


def shown() -> list[str]:
    """What each example shows, in words."""
    return [line["shows"] for line in json.loads(FILE.read_text("utf-8"))["examples"]]


def strip() -> gr.HTML:
    return gr.HTML(
        _buttons(), js_on_load=_ON_LOAD, elem_classes="vp-examples", apply_default_css=False
    )


@functools.cache
def _buttons() -> str:
    found = []
    for number, ((seed, question), shows) in enumerate(zip(chosen(), shown(), strict=True)):
        uri = picture_uri(sources.picture(seed), 96)
        label = escape(
            text.EXAMPLE.format(number=number + 1, question=question, shows=shows), quote=True
        )
        found.append(
            f'<button type="button" data-number="{number}" title="{label}">'
            f'<img src="{uri}" alt="{label}" width="96" height="96"></button>'
        )
    return f'<div role="group" aria-label="{text.EXAMPLES}" class="vp-strip">{"".join(found)}</div>'
