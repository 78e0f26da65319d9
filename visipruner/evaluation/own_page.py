"""The results of one's own questions as one HTML file, with pictures where an answer changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

from visipruner.errors import Refused
from visipruner.evaluation.jsonl import Line
from visipruner.evaluation.matching import is_right, same
from visipruner.evaluation.own_tables import HEAD, RULE, Results, cells, head
from visipruner.evaluation.tallies import EVERY
from visipruner.inputs import open_picture
from visipruner.render.report import document, settings_part
from visipruner.render.values import picture_uri

PER_TAG, MOST = 12, 120  # pictures of a tag, and in all: a file must stay small enough to open
SIDE = 360  # pixels of a picture's longer side
UNTAGGED = "without a tag"
_STYLE = """<style>
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(17rem, 1fr)); gap: 1rem; }
.gallery figure {
  border: 1px solid var(--border-color-primary); border-radius: 8px; padding: .8rem;
}
.gallery img { display: block; max-height: 16rem; margin: 0 auto .5rem; }
.gallery figcaption { opacity: 1; } .gallery p { margin: .3em 0; }
table { min-width: 46rem; } td:nth-child(2) { font-style: normal; }
</style>"""


@dataclass(frozen=True)
class Changed:
    """A question whose answer some method changed."""

    line: Line
    answers: dict[str, str]  # column -> answer, the baseline first


@dataclass
class Gallery:
    """The first changed questions of each tag. A question stands under the first of its tags that
    has room; `counts` has all of them."""

    shown: dict[str | None, list[Changed]] = field(default_factory=dict)
    counts: dict[str | None, int] = field(default_factory=dict)

    def add(self, line: Line, answers: dict[str, str]):
        first, *others = answers.values()
        if all(same(first, other) for other in others):
            return
        tags = line.tags or (None,)
        for tag in tags:
            self.counts[tag] = self.counts.get(tag, 0) + 1
        room = [tag for tag in tags if len(self.shown.get(tag, ())) < PER_TAG]
        if room and sum(map(len, self.shown.values())) < MOST:
            self.shown.setdefault(room[0], []).append(Changed(line, answers))


def page(results: Results, gallery: Gallery | None, settings: dict) -> str:
    """The whole file.

    Args:
        gallery: None: the results were opened from a file, which holds no pictures.
        settings: printed as JSON with the versions.
    """
    title = f"Visual-token pruning on {results.file}"
    body = [
        _STYLE,
        f"<h1>{escape(title)}</h1><p>{escape(RULE)}</p>",
        _table(results, EVERY, "All questions"),
        *(_gallery(gallery, results.columns) if gallery else ()),
        *(_table(results, tag, tag) for tag in results.tags),
        _left_out(results),
        settings_part(settings, results.made),
    ]
    return document(title, body)


def tables(results: Results) -> str:
    """All questions, then each tag; for a part of a page."""
    return "".join(
        [_table(results, EVERY, "All questions"), *(_table(results, t, t) for t in results.tags)]
    )


def _table(results: Results, tag: str | None, title: str) -> str:
    baseline = results.columns[0]
    top = "".join(f"<th scope='col'>{escape(name)}</th>" for name in head(baseline))
    rows = [_row(cells(line, baseline)) for line in results.of(tag)]
    return (
        f"<h2>{escape(title)}</h2><div class='scroll' tabindex='0' role='region' "
        f"aria-label='{escape(title)}'><table><thead><tr>{top}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _row(values: Sequence[str]) -> str:
    name, *others = map(escape, values)
    assert len(values) == len(HEAD)
    return f"<tr><th scope='row'>{name}</th>{''.join(f'<td>{one}</td>' for one in others)}</tr>"


def _left_out(results: Results) -> str:
    if not results.skipped:
        return ""
    rows = "".join(f"<li>line {bad.number}: {escape(bad.why)}</li>" for bad in results.bad)
    return f"<h2>{results.skipped:,} lines were left out</h2><ul>{rows}</ul>"


# -- the gallery


def _gallery(gallery: Gallery, columns: Sequence[str]) -> list[str]:
    if not gallery.counts:
        return ["<h2>Where pruning changed the answer</h2><p>Nowhere.</p>"]
    parts = [
        f"<h2>Where pruning changed the answer</h2><p><small>The first {PER_TAG} of each tag, "
        f"{MOST} at most; one that has several tags stands once. Underlined: another answer than "
        f"that of {escape(columns[0])}.</small></p>"
    ]
    for tag, count in gallery.counts.items():
        shown = gallery.shown.get(tag, [])
        title = UNTAGGED if tag is None else tag
        cards = "".join(map(_card, shown))
        parts.append(
            f"<h3>{escape(title)}: {count:,} changed, {len(shown)} shown here</h3>"
            f'<div class="gallery">{cards}</div>'
        )
    return parts


def _card(changed: Changed) -> str:
    line = changed.line
    first = next(iter(changed.answers.values()))
    answers = "".join(_answer(name, said, first, line) for name, said in changed.answers.items())
    known = f"<p>Known: {escape(' / '.join(line.answers))}</p>" if line.answers else ""
    tags = f"<p><small>{escape(', '.join(line.tags))}</small></p>" if line.tags else ""
    return (
        f"<figure>{_picture(line)}<figcaption><p><b>{escape(line.question)}</b> "
        f"<small>line {line.number}</small></p>{answers}{known}{tags}</figcaption></figure>"
    )


def _picture(line: Line) -> str:
    try:
        address = picture_uri(open_picture(line.picture), SIDE)
    except Refused as error:  # it was there a while ago
        return f"<p>{escape(str(error))}</p>"
    return f'<img src="{address}" alt="{escape(line.picture.name)}">'


def _answer(name: str, said: str, first: str, line: Line) -> str:
    words = escape(said) or "<em>(no words)</em>"
    shown = words if same(said, first) else f"<mark>{words}</mark>"
    judged = ""
    if line.answers:
        judged = " ✓ right" if is_right(said, line.answers) else " ✗ wrong"
    return f"<p>{escape(name)}: {shown}<small>{judged}</small></p>"
