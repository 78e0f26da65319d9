"""Examples as small pictures that are buttons, with alternative text for screen readers."""

from __future__ import annotations

import functools
from html import escape

import gradio as gr

from visipruner.render.values import picture_uri
from visipruner.ui import text
from visipruner.world import sources
from visipruner.world.questions import asked_for

# (scene number, skill, whether it asks for one word). Chosen because they are clear, differ from
# each other, and VisiPruner's presets answer them right.
CHOSEN = (
    (47, "two_digits", True),
    (49, "place", True),
    (7, "colour", True),
    (73, "count_kind", True),
    (66, "colour", False),
    (46, "relation", False),
)

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
    for seed, skill, one_word in CHOSEN:
        known = next(q for q in sources.questions(seed) if q.skill == skill)
        found.append((seed, asked_for(known, one_word).text))
    return tuple(found)


def strip() -> gr.HTML:
    return gr.HTML(
        _buttons(), js_on_load=_ON_LOAD, elem_classes="vp-examples", apply_default_css=False
    )


@functools.cache
def _buttons() -> str:
    found = []
    for number, (seed, question) in enumerate(chosen()):
        uri = picture_uri(sources.picture(seed), 96)
        label = escape(text.EXAMPLE.format(number=number + 1, question=question), quote=True)
        found.append(
            f'<button type="button" data-number="{number}" title="{label}">'
            f'<img src="{uri}" alt="{label}" width="96" height="96"></button>'
        )
    return f'<div role="group" aria-label="{text.EXAMPLES}" class="vp-strip">{"".join(found)}</div>'
