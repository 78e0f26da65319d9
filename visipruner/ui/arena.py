"""The arena on the page: its controls on the left, its column, and where each part stands."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr

from visipruner.choice import MOST_CONTESTANTS, brief_title, menu
from visipruner.evaluation.arena import FIRST
from visipruner.methods import PruningMethod
from visipruner.render.arena import ArenaBoard
from visipruner.ui import beside, tabs, text, views
from visipruner.ui.beside import Place
from visipruner.ui.page import browser_value

TOKENS, MOST = 144, 576  # before a model is known: a quarter of LLaVA-1.5's patches


@dataclass
class Arena:
    """The arena's components.

    Args:
        run, every, stop: its buttons.
        methods, tokens, share: what is chosen; the budget, and its share of the picture.
        result: the key of what ran.
    """

    run: gr.Button
    every: gr.Button
    stop: gr.Button
    methods: gr.Dropdown
    tokens: gr.Slider
    share: gr.HTML
    place: Place
    intro: gr.HTML
    board: gr.HTML
    saves: dict[str, gr.Button]
    payload: gr.JSON
    result: gr.HTML


def buttons() -> dict[str, gr.Button]:
    """The arena's buttons, where the other views have theirs."""
    with gr.Row(elem_classes=["vp-actions", tabs.ONLY_ARENA]):
        run = gr.Button(
            text.ARENA_RUN, variant="primary", size="lg", scale=3, min_width=110, elem_id="vp-arena"
        )
        every = gr.Button(text.ARENA_ALL, size="lg", scale=3, min_width=110, elem_id="vp-every")
        stop = gr.Button(text.STOP, size="lg", min_width=70, elem_id="vp-arena-stop")
    return {"run": run, "every": every, "stop": stop}


def _choices() -> dict[str, gr.Component]:
    """The methods and the budget."""
    known = [(brief_title(name), name) for _, name in menu() if name != PruningMethod.name]
    with gr.Row(elem_classes="vp-arena-choices"):
        methods = gr.Dropdown(
            known,
            value=list(FIRST),
            multiselect=True,
            max_choices=MOST_CONTESTANTS,
            label=text.ARENA_METHODS,
            scale=5,
            min_width=300,
            elem_classes="vp-others",
        )
        with gr.Column(scale=2, min_width=260, elem_classes="vp-arena-budget"):
            tokens = gr.Slider(
                1,
                MOST,
                TOKENS,
                step=1,
                label=text.ARENA_BUDGET,
                buttons=[],
                elem_id="vp-budget",
            )
            share = gr.HTML(share_line(TOKENS, MOST), elem_id="vp-budget-share")
    return {"methods": methods, "tokens": tokens, "share": share}


def share_line(tokens: float, most: int) -> str:
    """The budget as a share; page.js keeps it true while the slider moves."""
    share = text.ARENA_SHARE.format(share=f"{100 * tokens / most:.0f}%", all=most)
    return f'<p class="vp-small"><b>{share}</b></p>'


def build(placed: dict[str, gr.Button]) -> Arena:
    """The arena's column: the choices, what it is, and after a run the board with its files.

    Args:
        placed: from `buttons`.
    """
    chosen = _choices()
    place = beside.build(tabs.ARENA)
    intro = gr.HTML(views.intro(text.ARENA_LEAD, text.ARENA_INTRO, text.ARENA_BEGIN))
    board = ArenaBoard(elem_id="vp-board")
    with gr.Row(elem_classes="vp-tight vp-saves", elem_id="vp-arena-saves"):
        saves = {
            kind: gr.Button(label, size="sm", interactive=False)
            for kind, label in (
                ("csv", text.SAVE_CSV),
                ("json", text.SAVE_JSON),
                ("png", text.SAVE_PNG),
                ("html", text.SAVE_HTML),
            )
        }
    gr.HTML(f'<p class="vp-small">{text.ARENA_ADAPTS}</p>', elem_id="vp-arena-adapts")
    return Arena(
        **placed,
        **chosen,
        place=place,
        intro=intro,
        board=board,
        saves=saves,
        payload=gr.JSON(visible="hidden"),
        result=browser_value(),
    )
