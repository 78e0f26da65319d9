"""Examples as small pictures that are buttons, with words for those who do not see them."""

from __future__ import annotations

import functools
from html import escape

import gradio as gr

from visipruner.render.values import picture_uri
from visipruner.ui import scenes, text

# Scene number and skill: chosen to be easy on the eye and different from each other.
CHOSEN = (
    (49, "shape"),
    (21, "colour"),
    (2, "count_kind"),
    (9, "digit"),
    (46, "relation"),
    (39, "place"),
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
    for seed, skill in CHOSEN:
        known = scenes.questions(seed)
        fitting = [q for q in known if q.skill == skill and not q.short] or known
        found.append((seed, fitting[0].text))
    return tuple(found)


def strip() -> gr.HTML:
    return gr.HTML(
        _buttons(), js_on_load=_ON_LOAD, elem_classes="vp-examples", apply_default_css=False
    )


@functools.cache
def _buttons() -> str:
    found = []
    for number, (seed, question) in enumerate(chosen()):
        uri = picture_uri(scenes.picture(seed), 96)
        label = escape(text.EXAMPLE.format(number=number + 1, question=question), quote=True)
        found.append(
            f'<button type="button" data-number="{number}" title="{label}">'
            f'<img src="{uri}" alt="{label}" width="96" height="96"></button>'
        )
    return f'<div role="group" aria-label="{text.EXAMPLES}" class="vp-strip">{"".join(found)}</div>'
