"""One HTML file with a whole comparison, viewer included: no network, no server."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from visipruner.render import counters, palette, patches, svg
from visipruner.render.series import (
    flops_unit,
    influence_series,
    marks,
    settings_of,
    sides,
    thresholds_of,
)
from visipruner.render.values import viewer_value
from visipruner.render.viewer import viewer_parts
from visipruner.render.words import (
    describe_clocks,
    describe_flops,
    describe_influence,
    describe_speed,
    describe_tokens,
    describe_unplaced,
    kept,
    verdict,
)

_STYLE = Path(__file__).with_name("report.css")

# Part of the file, so that the browser itself refuses every request outside it.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def report_html(
    comparison, settings: dict, notes: Sequence[str] = (), truth: str = "", label: str = ""
) -> str:
    """The report as one string of HTML.

    Args:
        comparison: a `results.Comparison`.
        settings: the chosen settings, printed as JSON beside the versions.
        notes: sentences about picture and question, including the prompt's notes.
        truth: the true answer, if known.
        label: of a run from a file: that it is recorded, where and when.
    """
    title = f"Visual-token pruning: {comparison.prompt.question}"
    body = [
        f"<h1>{escape(title)}</h1>",
        *([f'<p class="recorded">{escape(label)}</p>'] if label else []),
        *(_verdict(pair, named=len(comparison.pairs) > 1) for pair in comparison.pairs),
        _answers(comparison, notes, truth),
        _patches(comparison),
        _viewer(comparison),
        _counters(comparison),
        *map(_charts, comparison.pairs),
        settings_part(settings, comparison.machine),
    ]
    return document(title, body)


def document(title: str, body: Sequence[str]) -> str:
    """A whole HTML file, which its own policy keeps off the network."""
    return (
        "<!doctype html>\n"
        '<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f"<title>{escape(title)}</title><style>{_STYLE.read_text('utf-8')}</style></head>\n"
        f"<body>{''.join(body)}</body></html>\n"
    )


# -- parts


def _verdict(pair, named: bool) -> str:
    trace, clock = pair.answer.trace, f"first token: {describe_speed(pair)}"
    # Times that show no difference are no headline.
    large, small = (
        (f", {clock}", "") if pair.conclusive else ("", f"<p><small>{escape(clock)}.</small></p>")
    )
    name = f"{pair.name}: " if named else ""
    line = f"{name}{verdict(pair)}{large}. Visual tokens: {kept(trace, '→')}."
    return f'<p class="verdict">{escape(line)}</p>{small}<p>{escape(trace.why)}</p>'


def _answers(comparison, notes: Sequence[str], truth: str) -> str:
    pairs, last = comparison.pairs, comparison.last
    # Words that only the baseline has can be marked only against a single other answer.
    first = _marked(last, "full") if len(pairs) == 1 else escape(last.baseline.text)
    cells = [_answer(_title(last.baseline, comparison.names[0]), first)]
    cells += [_answer(_title(pair.answer, pair.name), _marked(pair, "pruned")) for pair in pairs]
    known = [f"True answer: {truth}"] if truth else []
    below = "".join(f"<p>{escape(sentence)}</p>" for sentence in (*known, *notes))
    return f'<h2>Answers</h2><div class="answers">{"".join(cells)}</div>{below}'


def _title(answer, name: str) -> str:
    """A side's name; the unpruned side also says what that means."""
    return name if answer.trace.method != "none" else f"All patches ({name})"


def _answer(title: str, text: str) -> str:
    return f"<section><h3>{escape(title)}</h3><p>{text or '<em>(no words)</em>'}</p></section>"


def _marked(pair, side: str) -> str:
    """One side's answer as HTML, with the words marked that the other side lacks."""
    parts = []
    for kind, words in pair.word_diff:
        if kind == "same":
            parts.append(escape(words))
        elif kind == side:
            parts.append(escape(words) if pair.same else f"<mark>{escape(words)}</mark>")
    return " ".join(parts)


def _patches(comparison) -> str:
    """Each side's patches, one side below the other."""
    sheets, parts = comparison.prompt.sheets, []
    for name, answer in zip(comparison.names, comparison.answers, strict=True):
        trace = answer.trace
        used = f"{trace.mean_tokens:.1f} visual tokens per layer in the mean"
        parts.append(
            f"<h3>{escape(_title(answer, name))}</h3>"
            f"<p>{kept(trace, '→')}; {used}.</p>{patches.stages(trace, sheets)}"
        )
    head = "<h2>What the model still sees</h2><p><small>Framed: the model still has this patch. "
    head += "Dark and hatched: its token was dropped. “300 after 2”: 300 visual tokens are left "
    head += "after layer 2, counted from 0.</small></p>"
    if missing := describe_unplaced(sheets, comparison.prompt.layout.num_visual):
        head += f"<p>{escape(missing)}</p>"
    return f"{head}{patches.definitions(sheets)}{''.join(parts)}"


def _counters(comparison) -> str:
    rows = []
    for row in counters.ROWS:
        values = [row.read(answer) for answer in comparison.answers]
        if row.name == "peak" and set(values) == {counters.GPU_ONLY}:
            continue
        cells = "".join(f"<td>{escape(value)}</td>" for value in values)
        label = f"<th scope='row'>{escape(row.words)}</th>"
        rows.append(f"<tr>{label}<td>{row.kind}</td>{cells}</tr>")
    names = "".join(f"<th scope='col'>{escape(name)}</th>" for name in comparison.names)
    return (
        "<h2>Counters</h2><div class='scroll' tabindex='0' role='region' aria-label='Counters'>"
        f"<table><thead><tr><td></td><th scope='col'>kind</th>{names}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
        "<p><small>“formula” is the paper's multiply-adds of visual tokens only; “executed” counts "
        "every product that ran, 2 FLOPs per multiply-add, the test included; “measured” is read "
        f"on the machine below: {describe_clocks(comparison.answers[-1].times)}.</small></p>"
    )


def _viewer(comparison) -> str:
    name = escape(_title(comparison.answers[-1], comparison.names[-1]))
    heading = f"{name}, layer by layer" if len(comparison.pairs) <= 1 else "Layer by layer"
    return f"<h3>{heading}</h3>{component('viewer', viewer_parts(), viewer_value(comparison))}"


def component(name: str, parts: Mapping[str, str], value: dict) -> str:
    """A component of the page, which runs in this file without a server.

    Args:
        name: of its element.
        parts: its markup, style and script, as `viewer_parts` returns them.
    """
    # "</" would end the script element, and "<!--" with "<script" would keep it open.
    props = json.dumps({"value": value}).replace("<", "\\u003c")
    return (
        f"<style>#{name} {{ {parts['css_template']} }}</style>"
        f'<div id="{name}">{parts["html_template"]}</div>'
        f"<script>(function (element, props, watch) {{\n{parts['js_on_load']}\n}})"
        f"(document.getElementById('{name}'), {props}, () => {{}});</script>"
    )


def _charts(pair) -> str:
    cuts = marks(pair.answer.trace)
    tokens = [[record.visual_tokens for record in side.trace.layers] for side in sides(pair)]
    scale, unit = flops_unit(pair)
    flops = [[n / scale for n in side.counts.executed_per_layer] for side in sides(pair)]
    drawn = [
        svg.bars(*tokens, pair.called, "visual tokens", cuts, describe_tokens(pair)),
        svg.bars(*flops, pair.called, f"{unit} executed", cuts, describe_flops(pair)),
        _influence(pair),
    ]
    title = f"{pair.name} beside {pair.called[0]}, layer by layer"
    return f'<h2>{escape(title)}</h2><div class="charts">{"".join(drawn)}</div>'


def _influence(pair) -> str:
    threshold = thresholds_of(settings_of(pair)).get("layer_threshold")
    limits = [] if threshold is None else [(f"filters below cosine {threshold:g}", 1 - threshold)]
    pruned, probe = influence_series(pair)
    series = [(probe["name"], palette.FULL, probe["change"])] if probe else []
    series.append((pruned["name"], palette.PRUNED, pruned["change"]))
    return svg.lines(series, limits, "1 − smallest cosine", describe_influence(pair))


def settings_part(settings: dict, machine: dict) -> str:
    """Every setting and version, as JSON."""
    everything = {"settings": settings, "machine": machine}
    text = json.dumps(everything, indent=1, ensure_ascii=False, default=str)
    return f"<h2>Settings and versions</h2><pre>{escape(text)}</pre>"
