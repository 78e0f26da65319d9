"""Tools for a lesson: search for a picture where pruning changes the answer; sweep the level."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from html import escape

from visipruner.errors import Refused
from visipruner.evaluation.jsonl import Line
from visipruner.methods import PruningMethod
from visipruner.running.results import CLOCKS, Comparison, Pair, Times
from visipruner.ui import handlers, text, views
from visipruner.ui.handlers import Form, Job
from visipruner.ui.own import Own
from visipruner.ui.store import Models
from visipruner.world import sources

MOST_SCENES = 200
LEVELS = tuple(step / 10 for step in range(1, 11))
ROUNDS = 5


@dataclass
class Search:
    """How far the search has come.

    Args:
        seed: the current scene; the scene that was found, if `found`. Of a file: the line's number.
        tried: number of scenes begun, including this one.
        answers: every side's answer to the last finished scene.
        names: the names of the sides.
        over: whether the search has ended.
        most: scenes that are tried before it gives up.
        line: the question of a file that is tried, if one is searched.
    """

    seed: int
    question: str = ""
    tried: int = 0
    answers: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    found: bool = False
    over: bool = False
    most: int = 0
    line: Line | None = None


def search(models: Models, form: Form, seed) -> Iterator[Search]:
    """Try the scenes after `seed` until a side's answer differs from the baseline's."""
    _check_prunes(form)
    sources.scene(seed or 0)  # no scene number if the visitor uses their own picture
    first = int(seed or 0) + 1
    state = Search(first, most=MOST_SCENES)
    for number in range(MOST_SCENES):
        state.tried = number + 1
        state.seed = (first + number) % (sources.MAX_SEED + 1)
        state.question = sources.first_question(state.seed, form.question)
        picture = sources.picture(state.seed)
        form = replace(form, picture=picture, question=state.question)
        yield from _try(state, handlers.check(models, form, scene=state.seed))
        if state.found:
            break
    state.over = True
    yield state


def search_own(models: Models, form: Form, own: Own, after) -> Iterator[Search]:
    """Try a file's questions after line `after`, and then from its beginning, like `search`.

    A line that cannot be asked is passed over, as when the server started.

    Args:
        after: a line's number as text; anything else: from the beginning.
    """
    _check_prunes(form)
    is_number = isinstance(after, str) and after.isdecimal() and len(after) < 10
    after = int(after) if is_number else 0
    state = Search(0, most=min(MOST_SCENES, own.questions))
    for line in own.lines(after):
        if state.tried == state.most:
            break
        state.tried += 1
        state.seed, state.question, state.line = line.number, line.question, line
        try:
            form = replace(form, picture=str(line.picture), question=line.question)
            job = handlers.check(models, form)
        except Refused:
            continue
        yield from _try(state, job)
        if state.found:
            break
    if not state.names:
        raise Refused(text.OWN_GONE)
    state.over = True
    yield state


def _check_prunes(form: Form):
    if all(name == "none" for name in form.sides):
        raise Refused(text.NOTHING_TO_FIND)


def _try(state: Search, job: Job) -> Iterator[Search]:
    """Ask every side, and note whether one differs from the baseline."""
    yield state
    for comparison in _quick(job):  # noqa: B007 - only the last one counts
        yield state
    state.answers = tuple(answer.text for answer in comparison.answers)
    state.names = tuple(views.names(job.names))
    state.found = not all(pair.same for pair in comparison.pairs)


def _quick(job: Job) -> Iterator[Comparison | None]:
    """Compare without the probe; a generator, so that Stop can close it between two events."""
    events = job.compare(job.methods, replace(job.options, probe=False, clock_rounds=0))
    try:
        for event in events:
            yield event.comparison
    finally:
        events.close()


def search_html(state: Search) -> str:
    answers = [escape(answer) for answer in state.answers]
    place = (text.FOUND_LINE if state.line else text.FOUND_SCENE).format(number=state.seed)
    if state.found:
        line = text.FOUND.format(place=place, tried=state.tried)
        said = "".join(
            f"<p>{escape(name)}: <b>{answer}</b></p>"
            for name, answer in zip(state.names, answers, strict=True)
        )
        return (
            f'<div class="vp-found"><b data-say="{line}">{line}</b><p>{escape(state.question)}</p>'
            f"{said}{_known(state.line)}</div>"
        )
    if state.over:
        missing = text.NOT_FOUND_OWN if state.line else text.NOT_FOUND
        line = missing.format(tried=state.tried)
        return f'<p data-say="{line}">{line}</p>'
    line = text.SEARCHING.format(place=place, tried=state.tried, most=state.most)
    line += views.when(views.RUNNING, "…")
    last = text.LAST_SAME.format(answer=answers[0]) if answers and answers[0] else ""
    return (
        f'<p data-say="{text.FIND}">{line}</p><progress class="{views.RUNNING}" '
        f'max="{state.most}" value="{state.tried}" aria-label="{text.FIND}"></progress>'
        f"<p>{last}</p>{_unfinished()}"
    )


def _known(line: Line | None) -> str:
    if line is None or not line.answers:
        return ""
    return f"<p>{text.TRUE_ANSWER}: {escape(' / '.join(line.answers))}</p>"


def _unfinished() -> str:
    """What a lesson's box says after Stop or a failure; the style sheet hides it until then."""
    line = text.LESSON_ENDED
    return f'<p class="vp-small {views.UNFINISHED}" data-say="{line}">{line}</p>'


@dataclass
class Sweep:
    """The answers so far: first the full model's, then one per setting.

    Args:
        levels: names of the settings; levels with equal settings share one.
    """

    levels: list[str]
    answers: dict[int, object] = field(default_factory=dict)


def sweep(job: Job) -> Iterator[Sweep]:
    """Ask the same question at ten levels; the picture is encoded once."""
    methods, state = [PruningMethod()], Sweep([])
    for method, group in itertools.groupby(LEVELS, job.at):
        levels, preset = [f"{level:g}" for level in group], job.preset_of(method)
        named = f" ({preset})" if preset else ""
        state.levels.append(" to ".join(dict.fromkeys((levels[0], levels[-1]))) + named)
        methods.append(method)
    options = replace(job.options, probe=False, clock_rounds=0)
    events = job.compare(methods, options)
    try:
        for event in events:
            if event.kind == "answer":
                state.answers[event.side] = event.answer
                yield state
            elif event.kind == "layer":
                yield state  # Stop can close this generator here
    finally:
        events.close()


def sweep_html(state: Sweep, job: Job) -> str:
    """A table with one row per setting."""
    full = state.answers.get(0)
    rows = [_sweep_row(text.FULL, full, full, job)]
    early = job.form.method == "visipruner"  # others' levels only set how many stay
    note = f'<p class="vp-small">{text.SWEEP_NOTE}</p>' if early else ""
    rows += [
        _sweep_row(level, state.answers.get(number), full, job)
        for number, level in enumerate(state.levels, 1)
    ]
    head = views.table_head(*text.SWEEP_HEAD)
    line = text.SWEEP_DONE.format(done=len(state.answers), all=len(rows))
    done = len(state.answers) == len(rows)
    say, end = (line, "") if done else (text.SWEEP, _unfinished())
    return (
        f'<p class="vp-small" data-say="{say}">{line}</p>{views.asked(job, leveled=False)}'
        f'<div class="vp-scroll" tabindex="0" role="region" aria-label="{text.SWEEP}">'
        f'<table class="vp-table"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>{note}{end}"
    )


def _sweep_row(name: str, answer, full, job: Job) -> str:
    if answer is None:
        waits = views.when(views.RUNNING, "…") + views.when(views.UNFINISHED, "–")
        return f'<tr><th scope="row">{name}</th><td colspan="4">{waits}</td></tr>'
    fewer, same = "–", ""
    if full is not None and answer is not full:
        fewer = views.times(Pair(full, answer).flops_ratio)
        same = text.SWEEP_SAME if answer.says_as(full) else text.SWEEP_DIFFERENT
    if job.truth:
        same += " " + views.mark(job.truth, answer)
    count, _, when = views.tokens(answer.trace)
    return (
        f'<tr><th scope="row">{name}</th><td>{escape(answer.text)}</td><td>{same}</td>'
        f'<td>{fewer}</td><td class="vp-when">{count} <span>{when}</span></td></tr>'
    )


def rounds(job: Job) -> Iterator[list[list[Times]]]:
    """Silent whole answers of all sides in turn. Stop works after every round."""
    samples: list[list[Times]] = [[] for _ in job.methods]
    for turn in range(ROUNDS):
        for side, times in zip(samples, job.measure(turn), strict=True):
            side += times
        yield samples


def rounds_html(samples: list[list[Times]], names: Sequence[str]) -> str:
    """Medians so far, all sides side by side; with two sides also their ratio."""
    done = len(samples[0])
    if not done:
        line = views.when(views.RUNNING, text.MEASURING)
        return f'<p data-say="{text.MEASURING}">{line}</p>{_unfinished()}'
    medians = [Times.median(side) for side in samples]
    labels = ("vision", "prefill", "first", "token", "total")
    rows = []
    for name, label in zip(CLOCKS, labels, strict=True):
        clocks = [getattr(times, name) for times in medians]
        cells = [views.duration(clock) for clock in clocks]
        if len(clocks) == 2:
            # Both sides share one encoding of the picture, so vision has no ratio.
            known = all(clocks) and name != "vision"
            cells.append(f"{clocks[0] / clocks[1]:.2f}" if known else "–")
        row = "".join(f"<td>{cell}</td>" for cell in cells)
        rows.append(f'<tr><th scope="row">{text.COUNTERS[label]}</th>{row}</tr>')
    ratio = [text.MEDIAN_RATIO] if len(samples) == 2 else []
    head = views.table_head("", *names, *ratio)
    title = text.MEDIANS.format(done=done, rounds=ROUNDS)
    say, end = (title, "") if done == ROUNDS else (text.MEASURING, _unfinished())
    return (
        f'<p><b data-say="{say}">{title}</b> {views.tag(text.MEASURED)}</p>'
        '<div class="vp-scroll" tabindex="0" role="region" aria-label="Medians">'
        f'<table class="vp-table"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>{end}"
    )
