"""The interventions: small recipes, each with a few settings."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from visipruner.analyses.blind import Blind
from visipruner.analyses.interventions import Intervention, check_layer, present, unread
from visipruner.analyses.ranges import layers_in_words
from visipruner.attention import Span, attention_row
from visipruner.errors import Refused
from visipruner.inputs import check_number
from visipruner.layout import gaps, to_ranges
from visipruner.methods import Schedule, VisiPruner
from visipruner.methods.base import PruningMethod, check_cut
from visipruner.settings import CHOICE, INT, setting


def _choice(default: str, words: str, *options: str):
    return setting(default, words, CHOICE, options={name: name for name in options})


def _layer(default: int, words: str):
    return setting(default, words, INT, low=0, high=1000)


def _count(default: int, words: str):
    return setting(default, words, INT, low=0, high=1_000_000)


def check_range(first: int, last: int, vlm):
    """Refuse layers that the model lacks, and ranges out of order."""
    check_layer("first", first, vlm)
    check_layer("last", last, vlm)
    if last < first:
        raise Refused(f"last must be at least first, {first}, not {last}.")


# -- keep or drop patches


@dataclass(frozen=True)
class Ranked(PruningMethod):
    """Keep or drop the first or last visual tokens of an order, after one layer."""

    name: ClassVar[str] = "ranked"

    act: str  # the fields as in `KeepOrDrop`
    end: str
    by: str
    count: int
    layer: int

    def select(self, view):
        if view.layer != self.layer:
            return None
        scores = self._scores(view)
        order = sorted(range(len(scores)), key=scores.__getitem__, reverse=self.end == "top")
        stay = order[: self.count] if self.act == "keep" else order[self.count :]
        return view.keep_visual(sorted(stay), "ranked", scores=scores)

    def _scores(self, view) -> list[float]:
        if self.by == "influence":
            return view.influence().l2
        if self.by == "attention":
            return view.attention_row().mean(0).cpu()[view.visual_rows].tolist()
        lots = torch.Generator("cpu").manual_seed(0)  # the same draw for every run
        return torch.rand(len(view.visual_rows), generator=lots, device="cpu").tolist()


@dataclass(frozen=True)
class KeepOrDrop(Intervention):
    """Drop all visual tokens but a few, or these few alone, after one layer.

    A picture with fewer than `count` visual tokens keeps or loses all of them.
    """

    name: ClassVar[str] = "keep-or-drop"
    title: ClassVar[str] = "Keep or drop patches"
    question: ClassVar[str] = "Does the answer need the patches that matter most, or the others?"

    act: str = _choice("keep", "Keep or drop", "keep", "drop")
    end: str = _choice("top", "Which end of the order", "top", "bottom")
    by: str = _choice("influence", "Order", "influence", "attention", "lot")
    count: int = _count(64, "How many patches")
    layer: int = _layer(4, "After which layer")

    def check(self, vlm, prompt):
        super().check(vlm, prompt)
        check_layer("layer", self.layer, vlm, last=False)
        if vlm.schedule:
            check_cut(self.title, self.layer, vlm.facts())

    def sides(self, untouched, layout):
        count = min(self.count, layout.num_visual)
        which = f"{count} by lot" if self.by == "lot" else f"the {self.end} {count} by {self.by}"
        name = f"{self.act} {which} after layer {self.layer}"
        return {name: Ranked(self.act, self.end, self.by, count, self.layer)}


# -- mask some layers


@dataclass(frozen=True)
class MaskLayers(Intervention):
    """No text token sees the picture in a range of layers; the patches themselves go on."""

    name: ClassVar[str] = "mask-layers"
    title: ClassVar[str] = "Mask the picture in some layers"
    question: ClassVar[str] = "Does the answer miss the picture in these layers?"

    first: int = _layer(0, "First masked layer")
    last: int = _layer(1, "Last masked layer")

    def check(self, vlm, prompt):
        super().check(vlm, prompt)
        check_range(self.first, self.last, vlm)

    def sides(self, untouched, layout):
        name = f"masked in {layers_in_words(self.first, self.last)}"
        return {name: Blind(self.first, self.last + 1)}

    def reading(self, side, trace):
        return unread(present(trace), range(self.first, self.last + 1))


# -- merge in shallow layers


@dataclass(frozen=True)
class Merge(Intervention):
    """VisiPruner's shallow stage alone, beside plain masking of the same layers.

    In layer 0 the text gives its attention on all visual tokens to one patch's value; in the other
    shallow layers it sees none of them. Visual tokens see only the text before them.
    """

    name: ClassVar[str] = "merge"
    title: ClassVar[str] = "Merge into one patch"
    question: ClassVar[str] = "Do shallow layers need more of the picture than one patch?"
    others: ClassVar[int] = 2
    note: ClassVar[str] = (
        "Merged, the visual tokens do not see each other in these layers either; masked, they do."
    )

    patch: int = _count(0, "The patch that stands for all")
    layers: int = setting(2, "How many shallow layers", INT, low=1, high=1000)

    def check(self, vlm, prompt):
        super().check(vlm, prompt)
        check_number("layers", self.layers, 1, len(vlm.parts.layers), integer=True)
        check_number("patch", self.patch, 0, prompt.layout.num_visual - 1, integer=True)
        if vlm.schedule and vlm.schedule.enter:
            raise Refused(
                "Merging is for the first layers, and this model has no visual token there: they "
                f"enter at layer {vlm.schedule.enter}."
            )

    def sides(self, untouched, layout):
        where = layers_in_words(0, self.layers - 1)
        shallow = {"shallow_layers": self.layers, "merge_index": self.patch}
        return {
            f"merged into patch {self.patch}, {where}": VisiPruner(stages=("shallow",), **shallow),
            f"masked, {where}": Blind(0, self.layers),
        }

    def reading(self, side, trace):
        read = unread(present(trace), range(self.layers))
        if isinstance(side, VisiPruner):  # layer 0 reads one patch
            others = set(range(trace.num_visual)) - {self.patch}
            read = (unread(present(trace), range(1), others)[0], *read[1:])
        return read


# -- the cache while decoding


@dataclass(frozen=True)
class Forget(PruningMethod):
    """No visual key stays in the cache of layers `first` to `last`; prefill is untouched."""

    name: ClassVar[str] = "forget"

    first: int
    last: int

    def cached(self, layer, trace, memory):
        return [] if self.first <= layer <= self.last else None


@dataclass(frozen=True)
class DropCache(Intervention):
    """Drop visual keys and values from the cache of a range of layers when prefill ends."""

    name: ClassVar[str] = "drop-cache"
    title: ClassVar[str] = "Drop the picture from the cache"
    question: ClassVar[str] = "Does the model look at the picture again while it writes?"
    note: ClassVar[str] = (
        "The first word comes from prefill, which is untouched: only later words can change."
    )

    first: int = _layer(0, "First layer without the picture")
    last: int = _layer(0, "Last layer without the picture")

    def check(self, vlm, prompt):
        super().check(vlm, prompt)
        check_range(self.first, self.last, vlm)

    def sides(self, untouched, layout):
        name = f"no picture in the cache of {layers_in_words(self.first, self.last)}"
        return {name: Forget(self.first, self.last)}

    def reading(self, side, trace):
        return unread(present(trace), range(self.first, self.last + 1))


# -- skip or leave


@dataclass(frozen=True)
class SkipLayer(Intervention):
    """Mask the picture in one layer, against dropping it from that layer on."""

    name: ClassVar[str] = "skip-layer"
    title: ClassVar[str] = "Skip one layer, or leave"
    question: ClassVar[str] = "Does one layer need the picture, or all layers from it on?"
    others: ClassVar[int] = 2

    layer: int = _layer(4, "Which layer")

    def check(self, vlm, prompt):
        super().check(vlm, prompt)
        check_layer("layer", self.layer, vlm)
        if vlm.schedule and vlm.facts().enter:
            check_cut(self.title, self.layer - 1, vlm.facts())  # the picture leaves before it

    def sides(self, untouched, layout):
        leave = Schedule(keep_after=None, none_after=self.layer - 1) if self.layer else NO_PICTURE
        return {
            f"picture masked in layer {self.layer}": Blind(self.layer, self.layer + 1),
            f"picture dropped from layer {self.layer} on": leave,
        }

    def reading(self, side, trace):
        skipped = range(self.layer, self.layer + 1) if isinstance(side, Blind) else range(0)
        return unread(present(trace), skipped)


NO_PICTURE = Schedule(keep=0, keep_after=-1, none_after=None)


# -- sinks


@dataclass(frozen=True)
class Hide(PruningMethod):
    """No text token sees some patches, in any layer. Records the last prompt token's attention.

    Args:
        patches: ascending.
        notes: per layer (attention (tokens,), mean over heads, and L1 norms of values (tokens,));
            None for a layer without visual tokens.
    """

    name: ClassVar[str] = "hide"

    patches: tuple[int, ...] = ()
    notes: list = field(default_factory=list, compare=False)

    @property
    def settings(self):
        return {"patches": list(self.patches)}

    def attend(self, view):
        if not self.patches:
            return None
        seen = gaps(to_ranges(self._hidden(view).nonzero().flatten().tolist()), len(view.rows))
        plan = [Span(queries=(part,), keys=((0, part[1]),)) for part in view.visual_ranges]
        return (*plan, Span(queries=view.text_ranges, keys=seen))

    def _hidden(self, view):
        return torch.isin(view.rows.patch, torch.tensor(self.patches, dtype=torch.long))

    def select(self, view):
        if not len(view.visual_rows):
            self.notes.append(None)
            return
        visible, keys = ~self._hidden(view), view.keys
        row = attention_row(view.watch.query, view.watch.scaling, keys, visible.to(keys.device))
        sizes = view.values[0].float().abs().sum((0, 2))
        self.notes.append((row.mean(0).cpu(), sizes.cpu()))

    def cached(self, layer, trace, memory):
        visual = [token for span in trace.spans for token in range(*span)]
        return [token for patch, token in enumerate(visual) if patch not in self.patches]


@dataclass(frozen=True)
class NoSinks(Intervention):
    """Mask the visual tokens that get much attention and have small values, in every layer.

    Sinks are the visual tokens with the most attention of the last prompt token, as a mean over
    layers and heads, among those whose values (L1 norm) are smaller than the median visual token's
    in most layers.
    """

    name: ClassVar[str] = "no-sinks"
    title: ClassVar[str] = "Without visual sinks"
    question: ClassVar[str] = "Where does the attention go when its visual sinks are masked?"

    count: int = setting(5, "How many sinks", INT, low=1, high=1_000_000)

    def untouched(self):
        return Hide()

    def sides(self, untouched, layout):
        notes = [note for note in untouched.notes if note is not None]
        sinks = sinks_of(*map(torch.stack, zip(*notes, strict=True)), layout, self.count)
        many = "1 sink" if len(sinks) == 1 else f"{len(sinks)} sinks"
        return {f"{many} masked": Hide(sinks)}

    def reading(self, side, trace):
        return unread(present(trace), range(len(trace.layers)), side.patches)

    def attention(self, sides, layout):
        sinks = [layout.visual[patch] for patch in sides[1].patches]
        text = sorted(set(range(layout.length)) - set(layout.visual))
        groups = {
            "the first token": text[:1],
            "other text": text[1:],
            "the sinks": sinks,
            "other visual tokens": sorted(set(layout.visual) - set(sinks)),
        }
        shares = [
            tuple(
                tuple(note and note[0][tokens].sum().item() for note in side.notes)
                for tokens in groups.values()
            )
            for side in sides
        ]
        return {"groups": tuple(groups), "attention": tuple(shares)}


def sinks_of(attention: Tensor, sizes: Tensor, layout, count: int) -> tuple[int, ...]:
    """The patches that are sinks, ascending; at most `count`.

    Args:
        attention, sizes: (layers, tokens), as `Hide` records them.

    Raises:
        Refused: no visual token has small values.
    """
    attention, sizes = attention[:, list(layout.visual)], sizes[:, list(layout.visual)]
    small = (sizes < sizes.median(1, keepdim=True).values).float().mean(0) > 0.5
    if not small.any():
        raise Refused("No visual token has small values in most layers, so none is a sink.")
    score = attention.mean(0).masked_fill(~small, -1)
    found = score.topk(min(count, int(small.sum()))).indices
    return tuple(sorted(found.tolist()))


RECIPES: dict[str, type[Intervention]] = {
    kind.name: kind for kind in (KeepOrDrop, MaskLayers, Merge, DropCache, SkipLayer, NoSinks)
}
