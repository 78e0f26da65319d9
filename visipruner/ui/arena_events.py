"""What the arena's buttons do, from a press to the last method, and its files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import gradio as gr

from visipruner.errors import Refused
from visipruner.evaluation.arena import every
from visipruner.inputs import open_picture
from visipruner.render.arena import board_value
from visipruner.render.values import viewer_start
from visipruner.ui import arena_files, contest, controls, handlers, run_state, running, text, views
from visipruner.ui.arena import share_line
from visipruner.ui.contest import Contest
from visipruner.ui.page import MODEL_TURN, PRIVATE, UNQUEUED, plainly
from visipruner.ui.running import Frame


def connect(page, models, model_line, chosen, arena, results):
    """Connect the arena; its forms and results are kept with those of the other views."""
    stood = [arena.status, arena.state]
    events = []
    for button, all_of_them in ((arena.run, False), (arena.every, True)):
        fetched = button.click(
            _fetching(models, chosen, results, all_of_them),
            [*chosen.inputs, arena.methods, arena.tokens],
            [*stood, arena.asked],
            js="(...values) => { vp.arenaStarted(); return values; }",
            concurrency_limit=None,
            **PRIVATE,
        )
        run = fetched.success(
            _answering(models, model_line, arena, results),
            [arena.result, arena.asked],
            _outputs(model_line, arena),
            show_progress_on=[arena.status],
            **MODEL_TURN,
        )
        run.success(_room(models), [chosen.model, arena.tokens], _tokens(arena), **UNQUEUED)
        events += [fetched, run]
    for event in events:
        js = "(state) => vp.arenaUnfinished(state)"
        event.failure(running.on_unfinished, arena.state, stood, js=js, **UNQUEUED)
    _stopping(arena, events)
    arena.state.change(None, arena.state, None, js="(s) => vp.arenaState(s)", **PRIVATE)
    _budgets(page, models, chosen, arena)
    _saving(arena, results)


def _stopping(arena, events: list):
    @plainly
    def on_arena_stop(state):
        """Mark as stopped only what was running; what has finished stays."""
        if state not in run_state.BUSY:
            return gr.skip(), gr.skip()
        return views.says(text.STOPPED), run_state.STOPPED

    stopped = {"fn": on_arena_stop, "inputs": arena.state, "outputs": [arena.status, arena.state]}
    pressed = arena.stop.click(
        **stopped, js="(s) => vp.arenaStop(s)", cancels=events, queue=False, **PRIVATE
    )
    pressed.then(**stopped, show_progress="hidden", queue=False, **PRIVATE)  # after late updates


# -- the run


def _fetching(models, chosen, results, all_of_them: bool):
    @plainly
    def on_arena_fetch(*values):
        """Read the form, and download the model if necessary."""
        try:
            *shared, names, tokens = values
            given = dict(zip(chosen.form, shared, strict=True))
            form, scene = controls.asked_of(given), given["scene"]
            handlers.check_input(form, scene)
            names = every() if all_of_them else names or []
            check = contest.named if all_of_them else contest.check_names
            check(names, tokens)
            if scene is None and models.is_missing(form.model):
                open_picture(form.picture)  # a broken picture must not cost a long download
            key = results.forms.put((form, scene, names, tokens, all_of_them))
            yield views.says(text.WAITING, "waiting"), run_state.WAITING, key
            with closing(models.fetch(form.model, form.precision)) as sentences:
                for sentence in sentences:
                    yield views.says(sentence, text.FETCHING), gr.skip(), gr.skip()
        except Refused as error:  # the status line stays longer than the pop-up
            yield views.says(str(error)), run_state.REFUSED, None
            raise

    return on_arena_fetch


def _answering(models, model_line, arena, results):
    @plainly
    def on_arena(before, key):
        """Run the submitted form.

        Args:
            before: the key of the arena's result on the page.
            key: the key of the form.
        """
        frame, ended = Frame(_outputs(model_line, arena)), run_state.REFUSED
        try:
            form, scene, names, tokens, all_of_them = results.forms.take(key)
            if not models.is_ready(form.model, form.backend, form.precision):
                frame.set(arena.status, views.says(text.LOADING, text.LOADING))
                yield frame.take()
            made = contest.prepare(models, form, scene, names, tokens, all_of_them)
            ended = run_state.FAILED
            results.kept.drop(before)
            frame.set(arena.result, results.kept.put(made))
            frame.set(model_line, views.model_line(models, form.model))
            yield from _stream(made, arena, frame)
        except Refused as error:
            frame.set(arena.status, views.says(str(error)))
            frame.set(arena.state, ended)
            yield frame.take()
            raise

    return on_arena


def _stream(made: Contest, arena, frame: Frame) -> Iterator[list]:
    """Each side appears on the board as soon as it has finished."""
    layers = made.job.vlm.model.config.get_text_config().num_hidden_layers
    start, shown = viewer_start(made.job.prompt, layers), None
    frame.set(arena.state, run_state.SHOWN)
    frame.set(arena.intro, gr.update(visible=False))
    for progress in contest.follow(made):
        frame.set(arena.status, views.status(progress))
        if shown != _state(made):
            shown = _state(made)
            frame.set(arena.board, _board(made, start))
            for button in arena.saves.values():
                frame.set(button, gr.update(interactive=bool(made.finished)))
        if made.comparison:
            frame.set(arena.state, run_state.DONE)
        yield frame.take()


def _state(made: Contest) -> list:
    """What the board depends on: it is sent again only when this changes."""
    sides = [(id(entry.answer), entry.refused) for entry in made.entries]
    return [made.comparison is not None, *sides]


def _board(made: Contest, start: dict) -> dict:
    return board_value(start, made.shown, made.asked, made.pairs, made.comparison is not None)


def _outputs(model_line, arena) -> list:
    a = arena
    return [a.status, a.state, a.intro, a.board, a.result, model_line, *a.saves.values()]


# -- the budget


def _tokens(arena) -> list:
    return [arena.tokens, arena.share]


def _room(models):
    @plainly
    def on_room(name, tokens):
        """The slider ends at the model's own number of visual tokens, once it is known."""
        vlm = models.peek(name) if isinstance(name, str) else None
        if vlm is None:
            return gr.skip(), gr.skip()
        most = vlm.facts().num_visual
        kept = tokens if isinstance(tokens, int | float) and tokens <= most else round(most / 4)
        return gr.update(maximum=most, value=kept), share_line(kept, most)

    return on_room


def _budgets(page, models, chosen, arena):
    outputs, inputs = _tokens(arena), [chosen.model, arena.tokens]
    page.load(_room(models), inputs, outputs, **UNQUEUED)
    chosen.model.input(_room(models), inputs, outputs, **UNQUEUED)
    arena.tokens.change(None, arena.tokens, None, js="(n) => vp.budget(n)", **PRIVATE)


# -- files


def _saving(arena, results):
    def saving(maker):
        @plainly
        def on_arena_save(key):
            return maker(results.kept.find(key))

        return on_arena_save

    for kind, button in arena.saves.items():
        made = button.click(
            saving(arena_files.MAKERS[kind]),
            arena.result,
            arena.payload,
            **PRIVATE,
            show_progress="hidden",
        )
        made.success(None, arena.payload, None, js="(file) => vp.save(file)", **PRIVATE)
