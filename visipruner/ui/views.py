"""HTML for the verdict, the two columns and the status line. Strings in, strings out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from html import escape

from visipruner.choice import brief_title, names_of, settings_of_side, short_title
from visipruner.levels import PRESETS, level_number
from visipruner.render.counters import ROWS, cut_of
from visipruner.render.numbers import duration, flops, in_bytes, times, unbroken
from visipruner.render.stages import dropping, entering
from visipruner.render.words import describe_agreement
from visipruner.running.results import LEAST_ROUNDS, Answer, Comparison, Pair, Times
from visipruner.ui import about, text
from visipruner.ui.handlers import Job, Progress, Side
from visipruner.world.sources import Truth

RUNNING, STOPPED = "vp-if-running", "vp-if-stopped"
UNFINISHED, OVER = "vp-if-unfinished", "vp-if-over"
SHORT_ANSWER = 14  # letters; up to this length an answer is set in large type
LONG_ANSWER = 60  # letters; from this length on an answer is set in small type


def names(methods: Sequence[str]) -> list[str]:
    """The names of the sides.

    Args:
        methods: the method or stack of each side, the baseline first.
    """
    titles = [text.AGAIN if name == "none" else brief_title(name) for name in methods[1:]]
    if len(titles) == 1:
        return [text.FULL, text.AGAIN if methods[-1] == "none" else text.PRUNED]
    return [text.FULL, *titles]


def names_of_sides(comparison: Comparison) -> list[str]:
    return names([answer.trace.method for answer in comparison.answers])


def named(comparison: Comparison) -> Comparison:
    """The comparison for drawing: with more than two sides, each is named as on its card."""
    if len(comparison.answers) <= 2:
        return comparison
    return replace(comparison, words=tuple(names_of_sides(comparison)))


# -- status


def status(progress: Progress) -> str:
    """The status in one line; screen readers hear it when the stage changes."""
    line, stage = _stage(progress)
    if not stage:
        return says(line, kind="done")
    return says(line + ticked(time.monotonic() - progress.since), stage)


def ticked(seconds: float) -> str:
    """The end of a busy line: it shows that the work goes on."""
    return text.SECONDS.format(seconds=seconds) if seconds >= 1 else ""


def _stage(progress: Progress) -> tuple[str, str]:
    """(line, stage) of a run; the stage of a finished one is empty."""
    side, name = progress.sides[progress.now], names(progress.methods)[progress.now]
    if progress.comparison:
        return text.DONE.format(verdict=agreement(progress.comparison) + "."), ""
    if progress.probed:
        line = text.PROBING.format(layer=progress.probed, layers=progress.layers)
        return line, "probing"
    if progress.news == "clocked":
        return text.CLOCKING, "clocking"
    if side.text:
        return text.WRITING.format(side=name), f"writing {progress.now}"
    if side.records:
        record = side.records[-1]
        line = text.LAYERS.format(
            side=name,
            layer=record.layer + 1,
            layers=progress.layers,
            visual=record.visual_tokens,
        )
        return line, f"reading {progress.now}"
    return text.WAITING if progress.news == "waiting" else text.READING, "waiting"


def says(line: str, busy: str = "", kind: str = "still") -> str:
    """The status line. A line with `busy` names its stage, and is announced once per stage.

    watching.js reads a line aloud when its `data-say` is new on the page.

    Args:
        kind: of a line that is not busy: "still", or "done" if it contains the verdict.
    """
    kind = "busy" if busy else kind
    return f'<p class="vp-status {kind}" data-say="{escape(busy or line)}">{escape(line)}</p>'


# -- verdict


def asked(job: Job, leveled: bool = True) -> str:
    """What the result answered: the form may differ by now. `leveled=False` for a sweep."""
    form, level, pruning = job.form, "", job.names[1:]
    if any(name != "none" for name in pruning):
        level = _level(job) if leveled else ""
        level += text.ASKED_OWN if form.fields else ""
    for rules, words in text.ASKED_RULES.items():
        if any(rules in settings_of_side(side).values() for side in job.methods):
            level += words
    asked = pruning if leveled else [form.method]
    stacks = [" + ".join(short_title(name) for name in names_of(side)) for side in asked]
    method = ", ".join(stacks)
    model = job.models.titles[form.model]
    line = text.ASKED.format(question=job.prompt.question, method=method, level=level, model=model)
    return f'<p class="vp-asked">{escape(line)}</p>'


def recorded(run) -> str:
    """What a run from a file answered, and that it is recorded: a `recorded.runs.Run`."""
    comparison = run.comparison
    titles = [brief_title(answer.trace.method) for answer in comparison.answers[1:]]
    asked = text.ASKED.format(
        question=comparison.prompt.question,
        method=", ".join(titles),
        level="",
        model=comparison.machine["model"],
    )
    label = f'<p class="vp-recorded">{escape(run.label)}</p>'
    return f'<p class="vp-asked">{escape(asked)}</p>{label}'


def _level(job: Job) -> str:
    """The level and the preset that equals it: a checkpoint may have only a few settings."""
    number, preset = level_number(job.form.level), job.preset_of(job.methods[1])
    if len(job.methods) > 2:  # one level for all; each method may round it differently
        preset = next((name for name, value in PRESETS.items() if value == number), None)
    if preset is None:
        return text.ASKED_LEVEL.format(level=number)
    words = text.ASKED_PRESET if PRESETS[preset] == number else text.ASKED_NEAR
    return words.format(level=number, preset=preset)


def verdict(comparison: Comparison, truth: Truth | None = None, below: str = "") -> str:
    """The verdict and the numbers, in large type; with many sides, one line each.

    Args:
        below: HTML under the headline, from `asked`.
    """
    pairs = comparison.pairs
    kind = "same" if all(pair.same for pair in pairs) else "different"
    kind += " guess" if comparison.outside else ""
    before = f'<small class="vp-before">{text.BEFORE}</small>'  # page.js reads the time
    head = f"<h2>{escape(agreement(comparison))} {before}</h2>{below}"
    if len(pairs) > 1:
        inside = f"{head}{_truth(truth)}{_lines(comparison)}"
    else:
        says = f"{head}{_truth(truth)}{_unfolding(comparison, truth)}"
        inside = (
            f'<div class="vp-result"><div class="vp-says">{says}</div>'
            f'<div class="vp-numbers">{_numbers(comparison)}</div></div>{_no_speed(comparison)}'
        )
    return f'<section class="vp-verdict {kind}" aria-label="Verdict">{inside}</section>'


def agreement(comparison: Comparison) -> str:
    """Do all answers agree with the baseline's, or how many do?"""
    pairs = comparison.pairs
    if len(pairs) <= 1:
        return describe_agreement(comparison)
    words = text.SAME_OF_MANY_GUESS if comparison.outside else text.SAME_OF_MANY
    return words.format(same=sum(pair.same for pair in pairs), count=len(pairs))


def _lines(comparison: Comparison) -> str:
    """One line for each side but the baseline."""
    sides = list(zip(names_of_sides(comparison)[1:], comparison.pairs, strict=True))
    lines = "".join(_line(name, pair) for name, pair in sides)
    marks = "" if all(pair.same for _, pair in sides) else _diff_marks()
    open_ = ", ".join(name for name, pair in sides if not pair.conclusive)
    line = f"{escape(text.SPEEDS_OPEN.format(names=open_))} {tag(text.MEASURED)}"
    small = f'<p class="vp-small">{line}</p>' if open_ else ""
    known = (text.PAIRS_EXECUTED, text.EXECUTED), (text.PAIRS_MEASURED, text.MEASURED)
    tags = ", ".join(f"{escape(words)} {tag(source)}" for words, source in known)
    return f'<ul class="vp-pairs">{lines}</ul><p class="vp-small">{tags}</p>{marks}{small}'


def _line(name: str, pair: Pair) -> str:
    count, _, cut = tokens(pair.answer.trace)
    cells = [_flops(pair.flops_ratio), (count, cut)]
    cells += [_speed(pair)[:2]] if pair.conclusive else []
    numbers = "".join(
        f"<span><strong>{escape(value)}</strong> {escape(label)}</span>" for value, label in cells
    )
    kind = "same" if pair.same else "different"
    said = f'<b class="vp-said">{escape(describe_agreement(pair))}</b>'
    return f'<li class="{kind}"><h3>{escape(name)}</h3>{said}{numbers}{_diff(pair)}</li>'


def verdict_waits(below: str = "") -> str:
    """Hold the place of the verdict before it comes, so that the page does not jump."""
    words = when(RUNNING, text.VERDICT_WAITS) + when(OVER, text.NO_VERDICT_YET)
    cells = "".join(
        _number("0.0×", label, why.format(full=large, pruned=large, rounds=5), known)
        for label, why, large, known in (
            (text.FEWER_FLOPS, text.FEWER_FLOPS_WHY, unbroken("0.00 GFLOP"), text.EXECUTED),
            (text.TOKENS, text.TOKENS_WHY.format(layer=0, then=""), "", text.EXECUTED),
            (text.FASTER, text.FIRST_TOKEN_WHY, unbroken("000 ms"), text.MEASURED),
        )
    )  # invisible, as large as the figures to come
    return (
        '<section class="vp-verdict waits" aria-label="Verdict"><div class="vp-result">'
        f'<div class="vp-says"><h2>{words}</h2>{below}</div>'
        f'<div class="vp-numbers" aria-hidden="true">{cells}</div></div></section>'
    )


def when(state: str, words: str) -> str:
    """Words shown in one state of a run only; the style sheet shows and hides them.

    Args:
        state: RUNNING, STOPPED or UNFINISHED; OVER means either of the last two.
    """
    return f'<span class="{state}">{escape(words)}</span>'


def _unfolding(comparison: Comparison, truth: Truth | None) -> str:
    """Long notes fold into one line, so that the patches stay on the screen."""
    folds = [] if _is_short(truth) else [(text.TRUE_ANSWER, f"<p>{escape(truth.answer)}</p>")]
    folds += [] if comparison.same else [(text.DIFF, _words(comparison))]
    folded = "".join(
        f"<details><summary>{escape(name)}</summary>{words}</details>" for name, words in folds
    )
    return f'<div class="vp-unfolding">{folded}</div>' if folds else ""


def _words(comparison: Comparison) -> str:
    return _diff(comparison.last) + _diff_marks()


def _diff_marks() -> str:
    return f'<p class="vp-small">{text.DIFF_MARKS}</p>'


def _diff(pair: Pair) -> str:
    if pair.same:
        return ""
    tags = {"same": "span", "full": "del", "pruned": "ins"}
    words = " ".join(
        f"<{tags[kind]}>{escape(words)}</{tags[kind]}>" for kind, words in pair.word_diff
    )
    # Long answers scroll, by keyboard too.
    return f'<p class="vp-diff" tabindex="0">{words}</p>'


def _is_short(truth: Truth | None) -> bool:
    return truth is None or len(truth.answer) <= SHORT_ANSWER


def _truth(truth: Truth | None) -> str:
    if truth is None or not _is_short(truth):
        return ""
    return f'<p class="vp-truth">{text.TRUE_ANSWER}: {escape(truth.answer)}</p>'


def judged(truth: Truth, answer) -> tuple[str, str, str]:
    """Whether an answer is right: the kind, a sign, and words.

    For a description the words say how many of its facts are right.
    """
    right, total = truth.facts(answer.text)
    word, sign = (text.RIGHT, "✓") if right == total else (text.WRONG, "✗")
    if total == 1:
        return word, sign, word
    sign = sign if right in (0, total) else "◐"
    return word, sign, text.FACTS.format(right=right, total=total)


def mark(truth: Truth, answer) -> str:
    """Whether an answer is right, as HTML."""
    word, sign, said = judged(truth, answer)
    return f'<span class="vp-mark {word}"><span aria-hidden="true">{sign}</span> {said}</span>'


def _numbers(comparison: Comparison) -> str:
    pruned = comparison.answers[-1]
    before, after = comparison.last.whole, pruned.counts.executed.prefill
    why = text.FEWER_FLOPS_WHY.format(full=unbroken(flops(before)), pruned=unbroken(flops(after)))
    cells = [_number(*_flops(comparison.flops_ratio), why, text.EXECUTED)]
    cells.append(_number(*tokens(pruned.trace), text.EXECUTED))
    if comparison.conclusive:
        cells.append(_number(*_speed(comparison), text.MEASURED))
    return "".join(cells)


def _flops(ratio: float) -> tuple[str, str]:
    """Compare FLOPs. A method that drops nothing still pays for its test."""
    if times(ratio) == times(1):
        return "≈", text.AS_MANY_FLOPS
    return (times(ratio), text.FEWER_FLOPS) if ratio > 1 else (times(1 / ratio), text.MORE_FLOPS)


def _number(value: str, label: str, why: str, source: str) -> str:
    size = "long" if len(value) > 7 else ""
    return (
        f'<div class="vp-number"><strong class="{size}">{escape(value)}</strong>'
        f"<b>{escape(label)}</b><small><span>{escape(why)}</span> {tag(source)}</small></div>"
    )


def _speed(comparison: Comparison | Pair) -> tuple[str, str, str]:
    ratio, why = comparison.first_token_ratio, text.FIRST_TOKEN_WHY.format(**_firsts(comparison))
    if comparison.faster is None:
        return "≈", text.NO_DIFFERENCE, why
    if comparison.faster:
        return times(ratio), text.FASTER, why
    return times(1 / ratio), text.SLOWER, why


def _no_speed(comparison: Comparison) -> str:
    """Small print for times that show no difference."""
    if comparison.conclusive:
        return ""
    firsts = _firsts(comparison)
    line = text.TOO_FEW_RUNS.format(**firsts)
    if firsts["rounds"] >= LEAST_ROUNDS:
        line = text.UNEVEN.format(why=text.FIRST_TOKEN_WHY.format(**firsts))
    return f'<p class="vp-small">{escape(line)} {tag(text.MEASURED)}</p>'


def _firsts(comparison: Comparison) -> dict:
    """The first tokens' times for a sentence, and the number of repeats."""
    full, pruned = (unbroken(duration(a.times.first_token)) for a in comparison.answers)
    return {"full": full, "pruned": pruned, "rounds": comparison.answers[-1].times.rounds}


def tokens(trace) -> tuple[str, str, str]:
    """Visual tokens before and after the first cut, their label, and where the cut is."""
    cuts, entered = dropping(trace), entering(trace, 0) if trace.layers else None
    enter = "" if entered is None else text.TOKENS_ENTER.format(layer=entered)
    if not cuts:
        return str(trace.num_visual), text.TOKENS, enter or text.TOKENS_NONE
    gone = next((cut.after_layer for cut in cuts[1:] if not cut.kept), None)
    then = "" if gone is None else text.TOKENS_THEN.format(layer=gone)
    first = cuts[0]
    when = text.TOKENS_BEFORE if first.after_layer < 0 else text.TOKENS_WHY
    why = ", ".join(filter(None, [enter, when.format(layer=first.after_layer, then=then)]))
    return f"{trace.num_visual} → {len(first.kept)}", text.TOKENS, why


def tag(source: str, words: str = "") -> str:
    """How a number is known; `words` are more precise than the kind's name."""
    title = escape(text.MARKS[source])
    return f'<span class="vp-tag {source}" title="{title}">{escape(words) or source}</span>'


# -- the two columns


def column(progress: Progress, side: int, truth: Truth | None = None) -> str:
    """One answer with its main counters, finished or still running."""
    shown, name = progress.sides[side], names(progress.methods)[side]
    if shown.answer:
        return card(shown.answer, side, name, truth)
    busy = "busy" if side == progress.now else ""
    words = escape(shown.text) or when(RUNNING, text.NO_ANSWER_YET)
    ends = when(STOPPED, text.STOPPED_CARD) + when(UNFINISHED, text.UNFINISHED_CARD)
    words += f' <span class="vp-ended">{ends}</span>'
    size = "long" if len(shown.text) >= LONG_ANSWER else ""
    costs = f'<dl class="vp-live">{_live(progress, shown)}</dl>'
    methods = about.of_names(names_of(progress.methods[side]))
    return _card(side, escape(name), methods, words, costs, busy, size)


def cards(comparison: Comparison, truth: Truth | None, places: int) -> list[str]:
    """A card per finished answer; "" for each remaining place."""
    sides = zip(comparison.answers, names_of_sides(comparison), strict=True)
    found = [card(answer, side, name, truth) for side, (answer, name) in enumerate(sides)]
    return [*found, *[""] * (places - len(found))]


def card(answer: Answer, side: int, name: str, truth: Truth | None = None) -> str:
    """The card of a finished answer."""
    right = mark(truth, answer) if truth else ""
    length = len(answer.text)
    size = "short" if 0 < length <= SHORT_ANSWER else "long" if length >= LONG_ANSWER else ""
    size = size if length else "empty"
    words = escape(answer.text) or text.EMPTY_ANSWER
    first, *rows = _ended(answer)
    costs = f"<summary>{first}</summary><dl>{''.join(rows)}</dl>"
    costs = f'<details class="vp-costs">{costs}</details>'
    methods = about.of_trace(answer.trace)
    return _card(side, f"{escape(name)} {right}", methods, words, costs, size=size)


def _card(
    side: int, head: str, methods: str, words: str, costs: str, busy: str = "", size: str = ""
) -> str:
    kind = f"pruned side-{side}" if side else "full"
    return (
        f'<article class="vp-side {kind} {busy}">'
        f'<div class="vp-cardhead"><h3>{head}</h3>{methods}</div>'
        f'<p class="vp-answer {size}" tabindex="0">{words}</p>{costs}</article>'
    )


def _row(name: str, value: str, source: str, words: str = "") -> str:
    label = escape(text.COUNTERS[name])
    return f"<div><dt>{label}</dt><dd>{escape(value)} {tag(source, words)}</dd></div>"


# One line during the run, one folded line afterwards, so that the cards never jump.
def _live(progress: Progress, side: Side) -> str:
    last = side.records[-1] if side.records else None
    layers = f"{last.layer + 1 if last else 0} / {progress.layers}"
    done = f" · {flops(side.flops)}" if side.flops else ""
    return _row("layer", layers + done, text.EXECUTED)


def how_often(times: Times) -> dict[str, str]:
    """How each clock was read, in a word or two."""
    median = text.MEDIAN_OF.format(rounds=times.rounds) if times.rounds else text.ONE_RUN
    rest = median if times.whole else text.ONE_RUN
    total = text.SUM if median != rest else rest
    return {"vision": median, "prefill": median, "first": median, "token": rest, "total": total}


def _ended(answer: Answer) -> list[str]:
    """The line that is always visible, and the rows that unfold."""
    clock, counts = answer.times, answer.counts
    how = how_often(clock)
    token = text.FEW_TOKENS if clock.per_token is None else how["token"]
    first = f"<b>{duration(clock.first_token)}</b> {tag(text.MEASURED, how['first'])}"
    return [
        f"{escape(text.COUNTERS['first'])} {first}",
        _row("token", duration(clock.per_token), text.MEASURED, token),
        _row("total", duration(clock.total), text.MEASURED, how["total"]),
        _row("flops", flops(counts.executed.prefill) + _own_cut(answer), text.EXECUTED),
        _row("kv", in_bytes(counts.kv_bytes), text.EXECUTED),
    ]


def _own_cut(answer: Answer) -> str:
    """Of a model with a schedule of its own: how much less that is than all tokens everywhere."""
    cut = cut_of(answer)
    return "" if cut is None else f" ({text.CUT_OF_ALL.format(cut=f'{cut:.0%}')})"


def table_head(*names: str) -> str:
    """Column headings; an empty cell is no heading to a screen reader."""
    return "".join(
        f'<th scope="col">{escape(name)}</th>' if name else "<td></td>" for name in names
    )


# -- all counters


def counters(comparison: Comparison, label: str = "") -> str:
    """Every counter and time, side by side, each with its kind; folded away.

    Args:
        label: of a run from a file: that it is recorded, where and when.
    """
    how, rows = how_often(comparison.answers[-1].times), []
    sides = names_of_sides(comparison)
    for row in ROWS:
        if row.group:
            head = f'<th scope="rowgroup" colspan="{1 + len(sides)}">{row.group}</th>'
            rows.append(f'<tr class="vp-group">{head}</tr>')
        cells = "".join(f"<td>{escape(row.read(answer))}</td>" for answer in comparison.answers)
        known = tag(row.kind, how.get(row.name, ""))
        rows.append(f'<tr><th scope="row">{escape(row.words)} {known}</th>{cells}</tr>')
    head = table_head("", *sides)
    # Also as text: tooltips cannot be reached by keyboard or touch.
    marks = "".join(
        f'<p class="vp-small">{tag(source)} {escape(meaning)}</p>'
        for source, meaning in text.MARKS.items()
    )
    return (
        f'{small_print(comparison, label)}<details class="vp-more">'
        f"<summary>{text.COUNTERS_HEAD}</summary>"
        f'<table class="vp-table vp-counters"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>{marks}</details>"
    )


def small_print(comparison: Comparison, label: str = "") -> str:
    times = comparison.answers[-1].times
    medians = text.CLOCKS_WHOLE if times.whole else text.CLOCKS_MEDIAN
    clocks = medians.format(rounds=times.rounds) if times.rounds else text.CLOCKS_ONCE
    line = text.MACHINE.format(**comparison.machine, clocks=clocks)
    return small(f"{label} {line}".strip())


def small(line: str) -> str:
    return f'<p class="vp-small">{escape(line)}</p>'


def intro(lead: str, steps: Sequence[tuple[str, str]], end: str) -> str:
    """What a view is, before its first run: a sentence, numbered steps, and how to begin.

    Args:
        end: HTML.
    """
    items = "".join(f"<li><b>{name}</b><span>{what}</span></li>" for name, what in steps)
    return (
        f'<div class="vp-intro"><p class="vp-lead">{lead}</p><ol>{items}</ol>'
        f'<p class="vp-begin">{end}</p></div>'
    )


def told(sentence: str) -> str:
    """A chart in one sentence, for screen readers."""
    return f'<p class="vp-told">{escape(sentence)}</p>'


def model_line(models, name: str) -> str:
    """Which model answers, and whether it is ready."""
    title = models.titles[name]
    line = text.MODEL_WAITING.format(title=title)
    if vlm := models.peek(name):
        layers = vlm.model.config.get_text_config().num_hidden_layers
        patches, device = vlm.facts().num_visual, str(vlm.devices[0]).upper()
        line = text.MODEL_READY.format(title=title, grid=patches, layers=layers, device=device)
    return f'<p class="vp-modelline">{escape(line)}</p>'


def notes(sentences) -> str:
    items = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)
    return f'<ul class="vp-notes">{items}</ul>' if items else ""
