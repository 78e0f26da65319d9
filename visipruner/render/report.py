"""One HTML file with everything about a comparison: no network, no server, the viewer included."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path

from visipruner.render import palette, svg
from visipruner.render.series import (
    flops_unit,
    influence_series,
    marks,
    second,
    settings_of,
    sides,
    thresholds_of,
    tokens_left,
)
from visipruner.render.viewer import viewer_parts, viewer_value
from visipruner.render.words import (
    describe_agreement,
    describe_clocks,
    describe_computing,
    describe_flops,
    describe_influence,
    describe_speed,
    describe_tokens,
    engineering,
)

_STYLE = Path(__file__).with_name("report.css")

# Written into the file, so that the browser itself refuses every request that is not inside it.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def report_html(comparison, settings: dict, notes: Sequence[str] = (), truth: str = "") -> str:
    """The report as one string of HTML.

    Args:
        comparison: a `results.Comparison`.
        settings: whatever was chosen; printed as JSON beside the versions.
        notes: what had to be said about picture and question, those of the prompt among them.
        truth: the true answer, where it is known.
    """
    title = f"Visual-token pruning: {comparison.prompt.question}"
    body = [
        f"<h1>{escape(title)}</h1>",
        _verdict(comparison),
        _answers(comparison, notes, truth),
        "<h2>What the model still sees</h2>",
        _viewer(comparison),
        _counters(comparison),
        _charts(comparison),
        _settings(comparison, settings),
    ]
    return (
        "<!doctype html>\n"
        '<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f"<title>{escape(title)}</title><style>{_STYLE.read_text()}</style></head>\n"
        f"<body>{''.join(body)}</body></html>\n"
    )


# -- parts


def _verdict(comparison) -> str:
    pruned = sides(comparison)[1]
    left, clock = tokens_left(pruned.trace), f"first token: {describe_speed(comparison)}"
    # Clocks that say nothing are no headline.
    large, small = (
        (f", {clock}", "") if comparison.conclusive else ("", f"<p><small>{clock}.</small></p>")
    )
    return (
        f'<p class="verdict">{describe_agreement(comparison)}. '
        f"{pruned.trace.num_visual} → {left} visual tokens, "
        f"{describe_computing(comparison)}{large}.</p>"
        f"{small}<p>{escape(pruned.trace.why)}</p>"
    )


def _answers(comparison, notes: Sequence[str], truth: str) -> str:
    cells = []
    by = f"{second(comparison).capitalize()} run, by {sides(comparison)[1].trace.method}"
    for side, name in (("full", "All patches"), ("pruned", by)):
        text = _marked(comparison, side) or "<em>(no words)</em>"
        cells.append(f"<section><h3>{escape(name)}</h3><p>{text}</p></section>")
    known = [f"True answer: {truth}"] if truth else []
    below = "".join(f"<p>{escape(sentence)}</p>" for sentence in (*known, *notes))
    return f'<h2>Answers</h2><div class="answers">{"".join(cells)}</div>{below}'


def _marked(comparison, side: str) -> str:
    """One side's words; those that the other side does not have are marked."""
    parts = []
    for kind, words in comparison.word_diff:
        if kind == "same":
            parts.append(escape(words))
        elif kind == side:
            parts.append(escape(words) if comparison.same else f"<mark>{escape(words)}</mark>")
    return " ".join(parts)


def _counters(comparison) -> str:
    rows = []
    for label, kind, read in _COUNTERS:
        values = [read(answer) for answer in sides(comparison)]
        if all(value is None for value in values):
            continue
        cells = "".join(f"<td>{'–' if value is None else value}</td>" for value in values)
        rows.append(f"<tr><th scope='row'>{label}</th><td>{kind}</td>{cells}</tr>")
    return (
        "<h2>Counters</h2><div class='scroll' tabindex='0' role='region' aria-label='Counters'>"
        "<table><thead><tr><td></td><th scope='col'>kind</th><th scope='col'>full</th>"
        f"<th scope='col'>{second(comparison)}</th></tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
        "<p><small>“formula” is the paper's multiply-adds of visual tokens only; “executed” counts "
        "every product that ran, 2 FLOPs per multiply-add, the test included; “measured” is read "
        f"on the machine below: {describe_clocks(sides(comparison)[1].times)}.</small></p>"
    )


def _milliseconds(value: float | None) -> str | None:
    return None if value is None else f"{value:.1f} ms"


_COUNTERS = (
    ("Visual tokens × layers", "executed", lambda a: sum(r.visual_tokens for r in a.trace.layers)),
    (
        "Visual part of the language model",
        "formula",
        lambda a: engineering(a.counts.paper_macs, "MAC"),
    ),
    (
        "Prefill of the language model",
        "executed",
        lambda a: engineering(a.counts.executed.prefill, "FLOP"),
    ),
    (
        "… of which the method's test",
        "executed",
        lambda a: engineering(a.counts.executed.probe, "FLOP"),
    ),
    ("Decoding", "executed", lambda a: engineering(a.counts.executed.decode, "FLOP")),
    ("Vision tower and projector", "executed", lambda a: engineering(a.counts.vision, "FLOP")),
    ("Visual attention left", "formula", lambda a: f"{100 * a.counts.attention_paper:.1f} %"),
    ("Visual attention left", "executed", lambda a: f"{100 * a.counts.attention_executed:.1f} %"),
    ("Key-value cache after prefill", "executed", lambda a: engineering(a.counts.kv_bytes, "B")),
    ("Vision time", "measured", lambda a: _milliseconds(a.times.vision)),
    ("Prefill time", "measured", lambda a: _milliseconds(a.times.prefill)),
    ("Time to first token", "measured", lambda a: _milliseconds(a.times.first_token)),
    ("Time per further token", "measured", lambda a: _milliseconds(a.times.per_token)),
    ("Total time", "measured", lambda a: _milliseconds(a.times.total)),
    (
        "Peak memory above the model",
        "measured",
        lambda a: None if a.counts.peak_bytes is None else engineering(a.counts.peak_bytes, "B"),
    ),
)


def _viewer(comparison) -> str:
    parts = viewer_parts()
    # "</" would end the script element, wherever it stands.
    props = json.dumps({"value": viewer_value(comparison)}).replace("</", "<\\/")
    return (
        f"<style>#viewer {{ {parts['css_template']} }}</style>"
        f'<div id="viewer">{parts["html_template"]}</div>'
        f"<script>(function (element, props, watch) {{\n{parts['js_on_load']}\n}})"
        f"(document.getElementById('viewer'), {props}, () => {{}});</script>"
    )


def _charts(comparison) -> str:
    full, pruned = sides(comparison)
    cuts, names = marks(pruned.trace), ("full", second(comparison))
    tokens = [[record.visual_tokens for record in side.trace.layers] for side in (full, pruned)]
    scale, unit = flops_unit(comparison)
    flops = [[n / scale for n in side.counts.executed_per_layer] for side in (full, pruned)]
    drawn = [
        svg.bars(*tokens, names, "visual tokens", cuts, describe_tokens(comparison)),
        svg.bars(*flops, names, f"{unit} executed", cuts, describe_flops(comparison)),
        _influence(comparison),
    ]
    return f'<h2>Layer by layer</h2><div class="charts">{"".join(drawn)}</div>'


def _influence(comparison) -> str:
    threshold = thresholds_of(settings_of(comparison)).get("layer_threshold")
    limits = [] if threshold is None else [(f"filters below cosine {threshold:g}", 1 - threshold)]
    pruned, probe = influence_series(comparison)
    series = [(probe["name"], palette.FULL, probe["change"])] if probe else []
    series.append((pruned["name"], palette.PRUNED, pruned["change"]))
    return svg.lines(series, limits, "1 − smallest cosine", describe_influence(comparison))


def _settings(comparison, settings: dict) -> str:
    everything = {"settings": settings, "machine": comparison.machine}
    text = json.dumps(everything, indent=1, ensure_ascii=False, default=str)
    return f"<h2>Settings and versions</h2><pre>{escape(text)}</pre>"
