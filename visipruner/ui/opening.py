"""A saved run on the page: the file is read, what runs is stopped, and the view is filled."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import gradio as gr

from visipruner.choice import MOST_CONTESTANTS
from visipruner.errors import Refused, short
from visipruner.evaluation import own_page, own_tables
from visipruner.recorded.evaluations import Evaluation
from visipruner.recorded.kinds import opened
from visipruner.recorded.runs import Run
from visipruner.render.values import viewer_value
from visipruner.ui import opening_words as words
from visipruner.ui import run_state, running, views
from visipruner.ui.page import PRIVATE, SMALL, browser_value, file_input, plainly

READING = {**SMALL, "concurrency_limit": 2}  # a large file takes a second of a core


@dataclass
class Opening:
    """The components.

    Args:
        said: a sentence about the file, near the button.
        read: the key of a run that was read and is not yet shown.
    """

    file: gr.UploadButton
    said: gr.HTML
    read: gr.HTML


def build() -> Opening:
    """Lay out the accordion."""
    with gr.Accordion(words.TITLE, open=False, elem_id="vp-opening"):
        gr.Markdown(words.INFO)
        file = file_input(label=words.CHOOSE, file_types=[".json"], size="sm", elem_id="vp-file")
        said = gr.HTML(elem_id="vp-opened")
    return Opening(file, said, browser_value())


def connect(model_line, chosen, results, opening: Opening, stop: dict):
    """Connect the events. A file that cannot be read leaves the page, and what runs, as it is.

    Args:
        stop: of the event that stops what runs, as the button Stop has it.
    """
    read = [opening.said, opening.read]
    opening.file.upload(_reading(results), opening.file, read, **READING)
    # Not `success`: gradio cancels nothing in an event that follows another one.
    stopped = opening.read.change(**{**stop, "js": "(state) => vp.replace(state)"})
    shown = stopped.then(
        _showing(model_line, chosen, results),
        [opening.read, results.result],
        running.outputs_of(model_line, chosen, results),
        **READING,
    )
    shown.success(None, js="() => vp.opened()", **PRIVATE)
    return shown


def _reading(results):
    @plainly
    def on_read(path):
        """Read a file, and keep its run; a refusal stays on the page, near the button.

        It is no error of gradio's: those show the tags that a sentence may quote from the file.
        """
        try:
            run = opened(Path(path))
            if isinstance(run, Evaluation):
                return tables_of(run, short(Path(path).name)), gr.skip()
            check_fits(run)
        except Refused as error:
            return views.says(str(error)), gr.skip()
        name = short(Path(path).name)
        return views.says(words.OPENED.format(name=name, when=run.when)), results.kept.put(run)

    return on_read


def tables_of(found: Evaluation, name: str) -> str:
    """An evaluation's tables, under the button; what runs goes on."""
    said = views.says(words.EVALUATION.format(name=name, label=found.label))
    return f'{said}<div class="vp-evaluation">{own_page.tables(own_tables.opened(found))}</div>'


def check_fits(run: Run):
    """Raise `Refused` if the page has too few places for a run's answers."""
    count = len(run.comparison.pairs)
    if count > MOST_CONTESTANTS:
        raise Refused(words.TOO_MANY.format(count=count, most=MOST_CONTESTANTS))


def _showing(model_line, chosen, results):
    @plainly
    def on_show(key, before):
        """Show the run that was read in place of the result on the page."""
        run = results.kept.find(key)
        if before != key:
            results.kept.drop(before)
        frame = running.Frame(running.outputs_of(model_line, chosen, results))
        fill(frame, chosen, results, run)
        frame.set(results.result, key)
        return frame.take()

    return on_show


def fill(frame: running.Frame, chosen, results, run: Run):
    """Set every part of the view from a run, as the end of a live run does."""
    comparison = run.comparison
    named = views.named(comparison)
    agreed = views.agreement(comparison)
    frame.set(results.status, views.says(words.STATUS.format(verdict=agreed), kind="done"))
    frame.set(results.state, run_state.DONE)
    frame.set(results.notes, views.notes([*run.own_notes, *run.missing]))
    frame.set(results.intro, gr.update(visible=False))
    frame.set(results.body, gr.update(visible=True))
    frame.set(results.verdict, views.verdict(comparison, run.truth, views.recorded(run)))
    cards = views.cards(comparison, run.truth, len(results.cards))
    for place, card in zip(results.cards, cards, strict=True):
        frame.set(place, card)
    frame.set(results.viewer, viewer_value(named, notes=run.stays))
    frame.set(results.small, views.counters(comparison, run.label))
    frame.set(results.medians, views.small(words.NO_MEASURE))
    for button in results.saves.values():
        frame.set(button, gr.update(interactive=True))
    frame.set(results.measure, gr.update(interactive=False))
    frame.set(chosen.advanced.prompt, comparison.prompt.text)
    running.set_charts(frame, results, named)


def check_live(result):
    """Raise `Refused` if a result was opened from a file, and so cannot be measured again."""
    if isinstance(result, Run):
        raise Refused(words.NO_MEASURE)


def repeated() -> tuple[str, str, str, str]:
    """In place of the link and the code that repeat a live run: what opens the file again."""
    return "", words.READ_AGAIN, words.SHOW_AGAIN, words.NOT_ASKED
