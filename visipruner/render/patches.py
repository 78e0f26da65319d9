"""Pictures of the patches that stay, as SVG. The photograph stands in the page once, for all."""

from __future__ import annotations

from collections.abc import Collection
from html import escape
from itertools import groupby

from visipruner.render import palette
from visipruner.render.overlay import boxes_of, edges_of, panels
from visipruner.render.values import picture_uri
from visipruner.trace import PruningTrace

_SIZE = 420  # widths of lines are given for a picture of this size


def definitions(seen) -> str:
    """The picture and the hatching; they must stand in the page before `stages`.

    Args:
        seen: the picture as the model sees it (`Prompt.seen`).
    """
    width, height = seen.size
    step = 12 * max(seen.size) / _SIZE
    return (
        '<svg width="0" height="0" aria-hidden="true" style="position:absolute"><defs>'
        f'<image id="vp-seen" width="{width}" height="{height}" href="{picture_uri(seen)}"/>'
        f'<pattern id="vp-gone" width="{step:.2f}" height="{step:.2f}" '
        'patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
        f'<line y2="{step:.2f}" stroke="{palette.NEUTRAL}" stroke-width="{step / 5:.2f}"/>'
        "</pattern></defs></svg>"
    )


def stages(trace: PruningTrace, size: tuple[int, int]) -> str:
    """Every stage of a run: kept patches framed, the others dark and hatched.

    Args:
        size: width and height of the picture.
    """
    pruned = panels(trace)
    drawn = "".join(_stage(trace, size, name, set(kept)) for name, kept in pruned[1:])
    return f'<div class="stages">{drawn}</div>'


def _stage(trace: PruningTrace, size: tuple[int, int], name: str, kept: Collection[int]) -> str:
    width, height = size
    drawn = _veil(trace, size, kept) if trace.grids and len(kept) < trace.num_visual else ""
    return (
        f'<figure><svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(name)}">'
        f'<use href="#vp-seen"/>{drawn}</svg><figcaption>{escape(name)}</figcaption></figure>'
    )


def _veil(trace: PruningTrace, size: tuple[int, int], kept: Collection[int]) -> str:
    rows, columns = trace.grids[0]
    boxes, unit = boxes_of(size, rows, columns), max(size) / _SIZE
    gone = []
    for row in range(rows):
        patches = range(row * columns, (row + 1) * columns)
        for dropped, run in groupby(patches, lambda patch: patch not in kept):
            if dropped:
                run = list(run)
                (left, top, _, _), (_, _, right, bottom) = boxes[run[0]], boxes[run[-1]]
                gone.append(f"M{left} {top}H{right}V{bottom}H{left}z")
    edges = "".join(f"M{a} {b}L{c} {d}" for a, b, c, d in edges_of(boxes, rows, columns, kept))
    veil = "".join(gone)
    return (
        f'<path d="{veil}" fill="{palette.INK}" opacity="0.66"/>'
        f'<path d="{veil}" fill="url(#vp-gone)" opacity="0.5"/>'
        f'<path d="{edges}" stroke="{palette.INK}" stroke-width="{5 * unit:.2f}"/>'
        f'<path d="{edges}" stroke="{palette.KEPT}" stroke-width="{3 * unit:.2f}"/>'
    )
