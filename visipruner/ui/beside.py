"""What runs of the arena and of "Look inside" share: how they begin, stop and end early."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr

from visipruner.ui import run_state, running, text, views
from visipruner.ui.page import MODEL_TURN, PRIVATE, UNQUEUED, browser_value, plainly


@dataclass
class Place:
    """Where a view's run tells how it goes.

    Args:
        view: the view's name. state: one of run_state.py, which page.js and the style sheet read.
        asked: the key of the submitted form.
    """

    view: str
    status: gr.HTML
    state: gr.HTML
    asked: gr.HTML


def build(view: str) -> Place:
    """Its components; a phone scrolls to the status when a run begins."""
    gr.HTML('<span class="vp-begins"></span>', elem_classes="vp-beginning")
    status = gr.HTML(elem_classes="vp-statusbox")
    return Place(view, status, browser_value(), browser_value())


def connect_run(button, place: Place, fetch, inputs, answer, result, outputs):
    """Connect a button: `fetch` reads the form, and then `answer` runs.

    Args:
        fetch: the form's values -> status, state and the key of the form.
        answer: the keys of the result before and of the form -> `outputs`.

    Returns:
        both events, for Stop.
    """
    fetched = button.click(
        fetch,
        inputs,
        [place.status, place.state, place.asked],
        js=f'(...values) => {{ vp.begun("{place.view}"); return vp.rested(values); }}',
        concurrency_limit=None,
        **PRIVATE,
    )
    run = fetched.success(
        answer,
        [result, place.asked],
        outputs,
        js=f'(...values) => vp.goesOnIn("{place.view}", values)',
        show_progress_on=[place.status],
        **MODEL_TURN,
    )
    return [fetched, run]


def connect_ends(stop, place: Place, events: list):
    """Connect Stop, and say so when a run ends without a result."""
    stood = [place.status, place.state]
    js = f'(state) => vp.unfinishedIn("{place.view}", state)'
    for event in events:
        event.failure(running.on_unfinished, place.state, stood, js=js, **UNQUEUED)
    stopped = {"fn": _on_stop, "inputs": place.state, "outputs": stood, "queue": False, **PRIVATE}
    pressed = stop.click(
        **stopped, js=f'(state) => vp.stopIn("{place.view}", state)', cancels=events
    )
    pressed.then(**stopped, show_progress="hidden")  # after late updates
    js = f'(state) => vp.stateOf("{place.view}", state)'
    place.state.change(None, place.state, None, js=js, **PRIVATE)


@plainly
def _on_stop(state):
    """Mark as stopped only what was running; what has finished stays."""
    if state not in run_state.BUSY:
        return gr.skip(), gr.skip()
    return views.says(text.STOPPED), run_state.STOPPED
