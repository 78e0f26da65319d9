"""The patch viewer's value: one small JSON object, built only from traces and the picture."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image

from visipruner.render.series import thresholds_of
from visipruner.render.stages import live_steps, most_telling_layer, steps, title_of_cut
from visipruner.render.words import describe_unplaced
from visipruner.sheets import Sheet
from visipruner.trace import NOBODY, Influence, LayerRecord, PruningTrace

MAX_SIDE = 672  # pixels of the longer side of a picture; the boxes need no more
MAX_PICTURE_BYTES = 60_000

# Numbers travel as 16-bit codes with even logarithmic steps of 0.05 %, finer than what the page
# prints. A layer of 576 patches takes 1.5 kB. Code 0 means "this or less".
LOG_LOW, LOG_HIGH = -9.0, 4.0
_CODES = 65_535


def viewer_start(prompt, layers: int = 0) -> dict:
    """The value before a run: the picture as the model sees it, and its patches.

    Args:
        prompt: a `models.Prompt`.
        layers: decoder layers of the model; if known, the layer strip has its final length.
    """
    num_visual = prompt.layout.num_visual
    return {
        "kind": "start",
        "sheets": [_sheet(sheet, num_visual) for sheet in prompt.sheets],
        "num_visual": num_visual,
        "padding": list(prompt.padding),
        "num_layers": layers,
        "layers": [],
        "masks": [],
        "steps": [],
        "note": describe_unplaced(prompt.sheets, num_visual),
        "why": "",
    }


def viewer_live(start: dict, records: Sequence[LayerRecord], label: str = "") -> dict:
    """The value during prefill: counts, and the patches where a test already decided them.

    Args:
        start: from `viewer_start`; made once, because it contains the picture.
        records: the layers so far, from the events.
        label: the name of the run, for the line above the picture.
    """
    masks = Masks(start["num_visual"])
    layers = [_layer(record, _present(record, start["num_visual"]), masks) for record in records]
    for layer in layers:
        layer["influence"] = None  # counts only: sending thousands of numbers per layer is slow
    return {
        **start,
        "kind": "live",
        "layers": layers,
        "steps": live_steps(records, start["num_visual"]),
        "masks": masks.packed,
        "first": records[-1].layer if records else 0,
        "label": label,
    }


def viewer_value(comparison, start: dict | None = None, notes: Sequence[str] = ()) -> dict:
    """Everything that the viewer shows about the pruned answers of a comparison.

    Several answers become `runs` with names; viewer_sides.js shows one of them.

    Args:
        comparison: a `results.Comparison`.
        start: from `viewer_start` for this prompt; saves encoding the picture again.
        notes: a sentence for each answer but the first.
    """
    answers, probe = comparison.answers[1:] or comparison.answers, comparison.probe
    traces = [answer.trace for answer in answers]
    masks = Masks(traces[0].num_visual)
    runs = [run_value(trace, masks) for trace in traces]
    for run, note in zip(runs, notes, strict=False):
        run.update({"note": note} if note else {})
    shown = runs[0]
    if len(runs) > 1:
        named = zip(comparison.names[1:], runs, strict=True)
        shown = {"runs": [{"name": name, **run} for name, run in named]}
    return {
        **(start or viewer_start(comparison.prompt, len(traces[0].layers))),
        "kind": "done",
        **shown,
        "probe": probe and [_influence(record.influence, masks) for record in probe.layers],
        "scale": _scale(*traces, probe),
        "masks": masks.packed,
    }


def run_value(trace: PruningTrace, masks: Masks) -> dict:
    """The part of the value that differs between runs."""
    layers = [_layer(record, trace.patches_at(record.layer), masks) for record in trace.layers]
    return {
        "layers": layers,
        "steps": steps(trace),
        "first": most_telling_layer(trace),
        "why": trace.why,
        "thresholds": _thresholds(trace.fields),
        "cuts": [_cut(cut, trace, masks) for cut in trace.cuts if _matters(cut, trace)],
    }


def picture_uri(picture: Image.Image, max_side: int = MAX_SIDE) -> str:
    """The picture as a data URI, which needs no file and no server."""
    small = picture.convert("RGB")
    small.thumbnail((max_side, max_side))
    for quality in (90, 75, 50, 30, 10):
        stream = io.BytesIO()
        small.save(stream, "WEBP", quality=quality, method=1)  # fast rather than small
        if stream.tell() <= MAX_PICTURE_BYTES:
            break
    return "data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode()


# -- packing


def pack_bits(patches: Iterable[int], length: int) -> str:
    """Encode a set of patches: one bit for each of `length` patches, in order, in base64."""
    bits = np.zeros(length, dtype=bool)
    bits[list(patches)] = True
    return base64.b64encode(np.packbits(bits).tobytes()).decode()


def pack_numbers(values: Sequence[float]) -> str:
    """Numbers of at least 0 as 16-bit logarithmic codes, little-endian, in base64."""
    logs = np.log10(np.clip(np.nan_to_num(np.asarray(values, dtype=float)), 1e-30, None))
    codes = np.round((logs - LOG_LOW) / (LOG_HIGH - LOG_LOW) * _CODES).clip(0, _CODES)
    return base64.b64encode(codes.astype("<u2").tobytes()).decode()


def pack_scores(values: Sequence[float]) -> str:
    """Numbers as little-endian float32, in base64: a rank must not hang on a rounding."""
    return base64.b64encode(np.nan_to_num(np.asarray(values, dtype="<f4")).tobytes()).decode()


def pack_boxes(sheet: Sheet) -> tuple[str, int]:
    """The boxes of a sheet's placed tokens, and the number of units per pixel.

    Each box is left, top, right, bottom: 16 bits little-endian in base64, in the smallest unit that
    fits. Whole and half pixels stay exact.
    """
    parts = 2 ** int(math.log2(_CODES / max(sheet.picture.size)))
    edges = np.array([sheet.boxes[token] for token in sheet.placed], dtype=float).reshape(-1, 4)
    codes = np.round(edges * parts).astype("<u2")
    return base64.b64encode(codes.tobytes()).decode(), parts


class Masks:
    """Sets of patches, each sent once; layers refer to them by number."""

    def __init__(self, length: int):
        self.length = length
        self.packed: list[str] = []

    def number(self, patches: Iterable[int]) -> int:
        packed = pack_bits(patches, self.length)
        if packed not in self.packed:
            self.packed.append(packed)
        return self.packed.index(packed)


# -- parts of the value


def _sheet(sheet: Sheet, num_visual: int) -> dict:
    boxes, parts = pack_boxes(sheet)
    return {
        "name": sheet.name,
        "picture": picture_uri(sheet.picture),
        "size": list(sheet.picture.size),
        "at": pack_bits(sheet.placed, num_visual),
        "boxes": boxes,
        "parts": parts,
    }


def _layer(record: LayerRecord, present: Sequence[int] | None, masks: Masks) -> dict:
    return {
        "stage": record.stage,
        "visual": record.visual_tokens,
        "mask": None if present is None else masks.number(present),
        "influence": _influence(record.influence, masks),
    }


def _present(record: LayerRecord, num_visual: int) -> Sequence[int] | None:
    """The patches of a layer, as far as its record alone tells."""
    if record.influence:
        return [patch for patch in record.influence.patches if patch >= 0]
    return range(record.visual_tokens) if record.visual_tokens in (0, num_visual) else None


def _influence(influence: Influence | None, masks: Masks) -> dict | None:
    """`change` is 1 - cosine: how far the attention output turns without the patch."""
    if influence is None or not influence.patches:
        return None
    patches = np.asarray(influence.patches)
    order = np.argsort(patches)
    order = order[patches[order] >= 0]  # a token that is no patch has no place on the picture
    return {
        "at": masks.number(patches[order].tolist()),
        "change": pack_numbers(1 - np.asarray(influence.cos, dtype=float)[order]),
        "l2": pack_numbers(np.asarray(influence.l2, dtype=float)[order]),
        "norm": float(f"{influence.norm:.6g}"),
    }


def _cut(cut, trace: PruningTrace, masks: Masks) -> dict:
    before = trace.cut_before(cut.after_layer)
    present = range(trace.num_visual) if before is None else before.kept
    own, patch_of = set(cut.kept), _patches_by_token(trace)
    merged = [
        patch for patch, owner in enumerate(cut.owner) if owner != NOBODY and patch not in own
    ]
    scores = None
    if cut.scores and len(cut.scores) == len(present):  # else the scores are of other tokens
        scores = [score for _, score in sorted(zip(present, cut.scores, strict=True))]
    if trace.fields.get("start_shift"):  # FastV's off by one: not the patches' scores
        scores = None
    return {
        "after": cut.after_layer,
        "stage": cut.stage,
        "title": title_of_cut(trace, cut),
        "kept": masks.number(cut.kept),
        "at": masks.number(present),
        "scores": pack_scores(scores) if scores else None,
        "merged": masks.number(merged) if merged else None,
        # For each merged patch, ascending: the patch whose token carries it; -1: no patch.
        "carriers": [patch_of.get(cut.owner[patch], -1) for patch in merged],
    }


def _patches_by_token(trace: PruningTrace) -> dict[int, int]:
    visual = [token for start, stop in trace.spans for token in range(start, stop)]
    return {token: patch for patch, token in enumerate(visual)}


def _matters(cut, trace: PruningTrace) -> bool:
    """Do later layers run with other patches: with fewer, or with some that entered?"""
    return cut in trace.drops or (cut.stage == "enter" and cut.after_layer < len(trace.layers) - 1)


def _thresholds(settings: dict) -> dict:
    relative = {"relative": settings["relative"]} if "relative" in settings else {}
    return {**thresholds_of(settings), **relative}


def _scale(*traces: PruningTrace | None) -> list[int]:
    """Whole decades of 1 - cosine that cover nearly all values: one colour scale for all layers."""
    changes = np.concatenate(
        [[1e-3]]
        + [
            1 - np.asarray(record.influence.cos, dtype=float)
            for trace in traces
            if trace
            for record in trace.layers
            if record.influence and record.influence.cos
        ]
    )
    # Below 1e-7 nothing has changed. The lowest tenth of the values would only widen the scale.
    low = max(1e-7, float(np.quantile(changes, 0.1)))
    high = max(low * 10, float(changes.max()))
    return [math.floor(math.log10(low)), math.ceil(math.log10(high))]
