"""What the arena's buttons do, from a press to the last method, and its files."""

from __future__ import annotations

from collections.abc import Iterator

import gradio as gr

from visipruner.choice import kinds_of
from visipruner.errors import Refused
from visipruner.evaluation.arena import every
from visipruner.render.arena import board_value
from visipruner.render.values import viewer_start
from visipruner.ui import arena_files, beside, contest, controls, run_state, running, views
from visipruner.ui.arena import share_line
from visipruner.ui.contest import Contest
from visipruner.ui.page import PRIVATE, UNQUEUED, plainly
from visipruner.ui.running import Frame


def connect(page, models, model_line, chosen, arena, results):
    """Connect the arena; its forms and results are kept with those of the other views."""
    events = []
    for button, all_of_them in ((arena.run, False), (arena.every, True)):
        started = beside.connect_run(
            button,
            arena.place,
            _fetching(models, chosen, results, all_of_them),
            [*chosen.inputs, arena.methods, arena.tokens],
            _answering(models, model_line, arena, results),
            arena.result,
            _outputs(model_line, arena),
        )
        room = [chosen.model, arena.tokens]
        started[-1].success(_room(models), room, _tokens(arena), **UNQUEUED)
        events += started
    beside.connect_ends(arena.stop, arena.place, events)
    _budgets(page, models, chosen, arena)
    saves = arena.saves, arena_files.MAKERS
    running.connect_saves(*saves, results.kept, arena.result, arena.payload)


# -- the run


def _fetching(models, chosen, results, all_of_them: bool):
    @plainly
    def on_arena_fetch(*values):
        """Read the form, and download the model if necessary."""
        try:
            *shared, names, tokens = values
            given = dict(zip(chosen.form, shared, strict=True))
            form, scene = controls.asked_of(given), given["scene"]
            names = every() if all_of_them else names or []
            check = contest.named if all_of_them else contest.check_names
            words = check(names, tokens)
            # A method of many that lacks its CLIP is refused; it is not downloaded unasked.
            kinds = [] if all_of_them else kinds_of(words)
            running.check_asked(models, form, scene, kinds)
            key = results.forms.put((form, scene, names, tokens, all_of_them))
            yield from running.fetched(models, form, kinds, key)
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
            for line in running.loading(models, form):
                frame.set(arena.place.status, line)
                yield frame.take()
            made = contest.prepare(models, form, scene, names, tokens, all_of_them)
            ended = run_state.FAILED
            results.kept.drop(before)
            frame.set(arena.result, results.kept.put(made))
            frame.set(model_line, views.model_line(models, form.model))
            yield from _stream(made, arena, frame)
        except Refused as error:
            frame.set(arena.place.status, views.says(str(error)))
            frame.set(arena.place.state, ended)
            yield frame.take()
            raise

    return on_arena


def _stream(made: Contest, arena, frame: Frame) -> Iterator[list]:
    """Each side appears on the board as soon as it has finished."""
    layers = made.job.vlm.model.config.get_text_config().num_hidden_layers
    start, shown = viewer_start(made.job.prompt, layers), None
    frame.set(arena.place.state, run_state.SHOWN)
    frame.set(arena.intro, gr.update(visible=False))
    for progress in contest.follow(made):
        frame.set(arena.place.status, views.status(progress))
        if shown != _state(made):
            shown = _state(made)
            frame.set(arena.board, _board(made, start))
            for button in arena.saves.values():
                frame.set(button, gr.update(interactive=bool(made.finished)))
        if made.comparison:
            frame.set(arena.place.state, run_state.DONE)
        yield frame.take()


def _state(made: Contest) -> list:
    """What the board depends on: it is sent again only when this changes."""
    sides = [(id(entry.answer), entry.refused) for entry in made.entries]
    return [made.comparison is not None, *sides]


def _board(made: Contest, start: dict) -> dict:
    return board_value(start, made.shown, made.asked, made.pairs, made.comparison is not None)


def _outputs(model_line, arena) -> list:
    p, a = arena.place, arena
    return [p.status, p.state, a.intro, a.board, a.result, model_line, *a.saves.values()]


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
        most = round(vlm.facts().most)
        kept = tokens if isinstance(tokens, int | float) and tokens <= most else round(most / 4)
        return gr.update(maximum=most, value=kept), share_line(kept, most)

    return on_room


def _budgets(page, models, chosen, arena):
    outputs, inputs = _tokens(arena), [chosen.model, arena.tokens]
    page.load(_room(models), inputs, outputs, **UNQUEUED)
    chosen.model.change(_room(models), inputs, outputs, **UNQUEUED)
    arena.tokens.change(None, arena.tokens, None, js="(n) => vp.budget(n)", **PRIVATE)
