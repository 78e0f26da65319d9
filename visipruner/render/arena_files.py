"""The arena in files: every method's picture side by side as a PNG, and a report in HTML."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from PIL import Image, ImageDraw

from visipruner.render import palette, report
from visipruner.render.arena import COLUMNS, Shown, board_parts, last_kept, table
from visipruner.render.numbers import duration, flops
from visipruner.render.overlay import beside, fitted, frame, rows_of, text_block, veil
from visipruner.sheets import Sheet
from visipruner.trace import NOBODY, PruningTrace

_VEIL = 0.74  # share of ink over a patch that hardly any layer computed
_SIZE, _PER_ROW = 420, 5
KEY = (
    "The lighter a patch, the more layers computed its token; dark and hatched: dropped before the "
    "first layer; a dot: merged into another patch. Framed: kept after the last cut."
)


def side_by_side(sheets: Sequence[Sheet], sides: Sequence[Shown], head: str) -> Image.Image:
    """Every finished side's picture with its answer and its costs, five in a row.

    Args:
        head: the question and the wish, at the top.
    """
    done = [side for side in sides if side.answer]
    cells = [_cell(sheets, side) for side in done]
    body = rows_of(cells, _PER_ROW if len(sheets) == 1 else 2)
    width = body[0].width
    refused = "\n".join(side.refused for side in sides if side.refused)
    parts = [text_block(head, width, _SIZE // 16, palette.INK), *body]
    parts.append(text_block(f"{KEY}\n{refused}".strip(), width, _SIZE // 24, palette.INK))
    drawn = Image.new("RGB", (width, sum(part.height for part in parts) + 24), palette.PAPER)
    top = 12
    for part in parts:
        drawn.paste(part, (0, top))
        top += part.height
    return drawn


def _cell(sheets: Sequence[Sheet], side: Shown) -> Image.Image:
    answer = side.answer
    drawn = beside([lit(sheet, answer.trace) for sheet in sheets])
    right = f" ({side.judged[2]})" if side.judged else ""
    words = (
        f"{side.title}: {answer.text}{right}\n{answer.trace.mean_tokens:.1f} tokens per layer, "
        f"{flops(answer.counts.executed.prefill)} executed, first word after "
        f"{duration(answer.times.first_token)} ({side.clock})"
    )
    label = text_block(words, drawn.width, _SIZE // 22, palette.INK, margin=0)
    cell = Image.new("RGB", (drawn.width, label.height + drawn.height), palette.PAPER)
    cell.paste(label, (0, 0))
    cell.paste(drawn, (0, label.height))
    return cell


def lit(sheet: Sheet, trace: PruningTrace) -> Image.Image:
    """A sheet's picture, each patch as light as the share of layers that computed its token."""
    drawn, presence = fitted(sheet), trace.presence()
    boxes = sheet.scaled(drawn.size)
    step = max(4, int(sheet.cell * drawn.width / sheet.picture.width) // 2)
    hatched, dark = veil(drawn, step), Image.new("RGB", drawn.size, palette.INK)
    masks = {share: Image.new("L", drawn.size, 0) for share in set(presence) if share < 1}
    for token, (left, top, right, bottom) in boxes.items():
        share = presence[token]
        if share in masks:
            shade = round(255 * (_VEIL * (1 - share) ** 0.6 if share else 1))
            pen = ImageDraw.Draw(masks[share])
            pen.rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), fill=shade)
    for share, mask in masks.items():
        drawn.paste(dark if share else hatched, (0, 0), mask)
    _dots(drawn, [boxes[token] for token in merged(trace) if token in boxes])
    kept = set(last_kept(trace))
    if len(kept) < trace.num_visual:
        frame(drawn, [boxes[token] for token in kept if token in boxes])
    return drawn


def merged(trace: PruningTrace) -> list[int]:
    """The patches that live on in another one's token after the last cut that leaves any."""
    cuts = [cut for cut in trace.drops if cut.kept]
    if not cuts:
        return []
    own = set(cuts[-1].kept)
    return [
        patch for patch, owner in enumerate(cuts[-1].owner) if owner != NOBODY and patch not in own
    ]


def _dots(drawn: Image.Image, boxes: Sequence[tuple]):
    pen = ImageDraw.Draw(drawn)
    for left, top, right, bottom in boxes:
        x, y, size = (left + right) / 2, (top + bottom) / 2, 0.14 * (right - left)
        pen.ellipse((x - size, y - size, x + size, y + size), fill="#d8dade")


# -- the report


def arena_report(value: dict, sides: Sequence[Shown], settings: dict, machine: dict) -> str:
    """One HTML file: the board as on the page, the table, and the settings.

    Args:
        value: from `arena.board_value`.
        machine: versions and device, as in a comparison; empty if the run was stopped.
    """
    title = f"Arena: {value['asked']['question']}"
    body = [
        f"<h1>{escape(title)}</h1>",
        report.component("board", board_parts(), value),
        f"<h2>Table</h2>{_table(sides)}",
        report.settings_part(settings, machine),
    ]
    return report.document(title, body)


def _table(sides: Sequence[Shown]) -> str:
    heads = "".join(f"<th scope='col'>{escape(name.replace('_', ' '))}</th>" for name in COLUMNS)
    rows = "".join(
        f"<tr>{''.join(f'<td>{escape(_cell_words(row[name]))}</td>' for name in COLUMNS)}</tr>"
        for row in table(sides)
    )
    return (
        "<div class='scroll' tabindex='0' role='region' aria-label='Table'><table>"
        f"<thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _cell_words(value) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
