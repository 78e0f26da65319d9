"""The page's views: a tab for each in the head; page.js and the style sheet show one at a time."""

from __future__ import annotations

import gradio as gr

COMPARE, INSIDE, ARENA, CURVE, LESSON = "compare", "inside", "arena", "curve", "lesson"
TITLES = {
    COMPARE: "One question",
    INSIDE: "Look inside",
    ARENA: "Arena",
    CURVE: "Cost and accuracy",
    LESSON: "Lesson",
}

# Where the head is narrow; each is a part of the title, which stays the tab's name.
SHORT = {
    COMPARE: "Question",
    INSIDE: "Inside",
    ARENA: "Arena",
    CURVE: "Accuracy",
    LESSON: "Lesson",
}

# Of a control on the left: it means something in these views only. The style sheet reads them.
ONLY_COMPARE, ONLY_ARENA, ONLY_INSIDE = "vp-only-compare", "vp-only-arena", "vp-only-inside"


def switch() -> str:
    """The tabs. Without a choice the page shows the first view."""
    buttons = "".join(
        f'<button type="button" role="tab" id="vp-tab-{name}" data-view="{name}" '
        f'aria-controls="vp-view-{name}" aria-selected="{str(name == COMPARE).lower()}" '
        f'tabindex="{0 if name == COMPARE else -1}" aria-label="{title}">'
        f'<span class="vp-long">{title}</span><span class="vp-short">{SHORT[name]}</span></button>'
        for name, title in TITLES.items()
    )
    return f'<div class="vp-tabs" role="tablist" aria-label="View">{buttons}</div>'


def view(name: str) -> gr.Column:
    """The column of a view, beside the controls."""
    classes = ["vp-outputs", "vp-view"]
    return gr.Column(scale=5, min_width=320, elem_id=f"vp-view-{name}", elem_classes=classes)
