"""What happened in one run: which patch survived where, why, and which token carries it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from visipruner.layout import TokenLayout

NOBODY = -1  # owner of a patch that no token carries
TRAINED = "trained schedule"  # the story of a model's own schedule (methods/trained.py)


@dataclass(frozen=True)
class Selection:
    """A method's decision: which tokens go on, in which order, and what the others become.

    Args:
        keep: token ids in the order for the next layer. Text keeps its order, and the last prompt
            token stays last. Visual tokens may change their order only with `compact`. Ids from
            `view.free_token` on are new visual tokens, with their states in `hidden`.
        stage: a word for this decision, shown on the page ("filter", "exit", ...).
        scores: one number per visual token that was present, larger is better; for the page.
        hidden: (1, kept, width) replaces the kept tokens' states. None: states unchanged.
        into: dropped token -> token that carries it from here on.
        compact: renumber the survivors 0..n-1 instead of keeping their places.
        enter: the layer before which the dropped tokens come back, with their present states.
            None: never.
    """

    keep: tuple[int, ...]
    stage: str
    scores: tuple[float, ...] | None = None
    hidden: Tensor | None = None
    into: Mapping[int, int] = field(default_factory=dict)
    compact: bool = False
    enter: int | None = None


@dataclass
class Cut:
    """A selection that was carried out, as the trace records it."""

    after_layer: int  # -1: before layer 0
    stage: str
    kept: list[int]  # patches that still have a token of their own
    owner: list[int]  # per patch: id of the token that carries it, or NOBODY
    scores: list[float] | None = None
    by: int = 0  # index of the method in the stack
    visual: list[int] = field(default_factory=list)  # ids of all visual tokens that go on


@dataclass
class MethodStory:
    """One method of a run: its settings, and its account of what was carried out."""

    name: str
    settings: dict
    why: str = ""  # one or more sentences: what was or was not decided, with the nearest value
    notes: dict = field(default_factory=dict)  # the method's own, such as the layers of its stages


class Influence:
    """How far each visual token moves the attention output of the last prompt token.

    The numbers become lists only on request: a run that no page shows needs only `lowest`.

    Args:
        patches: (visual tokens,) the tested ones; at least one.
        cos: (visual tokens,) float64, cosine(O, O'_j): float32 has too few numbers near 1.
        l2: (visual tokens,) float64, ||O - O'_j||.
        norm: ||O||, to compare l2 with.
        on_question: of all words after the picture instead, together.
    """

    def __init__(self, patches: Tensor, cos: Tensor, l2: Tensor, norm: float, on_question=False):
        self._found, self.norm, self.on_question = (patches, cos, l2), norm, on_question

    @cached_property
    def patches(self) -> list[int]:
        return self._found[0].tolist()

    @cached_property
    def cos(self) -> list[float]:
        return self._found[1].tolist()

    @cached_property
    def l2(self) -> list[float]:
        return self._found[2].tolist()

    @cached_property
    def lowest(self) -> float:
        """The cosine of the most influential token."""
        return self._found[1].min().item()

    def reaching(self, bar: float) -> Tensor:
        """Ascending indices of the tested tokens with an L2 of at least `bar`."""
        return (self._found[2] >= bar).nonzero().flatten()

    def passing(self, bar: float) -> Tensor:
        """Ascending indices of the tested tokens with an L2 above `bar`."""
        return (self._found[2] > bar).nonzero().flatten()

    def to_json(self) -> dict:
        found = {"patches": self.patches, "cos": self.cos, "l2": self.l2, "norm": self.norm}
        return found | {"on_question": True} if self.on_question else found

    @classmethod
    def from_json(cls, data: dict) -> Influence:
        patches = torch.tensor(data["patches"], dtype=torch.long, device="cpu")
        numbers = {"dtype": torch.float64, "device": "cpu"}
        cos, l2 = (torch.tensor(data[name], **numbers) for name in ("cos", "l2"))
        return cls(patches, cos, l2, data["norm"], data.get("on_question", False))

    def __reduce__(self):
        # Pickle plain numbers: tensors would use shared memory that dies with this process.
        return Influence.from_json, (self.to_json(),)

    def __eq__(self, other) -> bool:
        return isinstance(other, Influence) and self.to_json() == other.to_json()


@dataclass
class LayerRecord:
    """One decoder layer in prefill."""

    layer: int
    tokens: int  # rows that this layer computed
    visual_tokens: int  # visual tokens among them
    stage: str = ""
    pairs: int = 0  # query-key pairs scored, counted as full rectangles
    visual_pairs: int = 0  # scored causal pairs with a visual query or key
    probe_flops: int = 0  # spent by the method's own test
    influence: Influence | None = None  # None: not tested
    kv_tokens: int = 0  # length of this layer's cache when prefill ends


@dataclass
class PruningTrace:
    """The record of one prompt. All drawings and counts come from it."""

    length: int
    spans: list[tuple[int, int]]
    grids: list[tuple[int, int]]
    num_visual: int
    stories: list[MethodStory] = field(default_factory=list)  # one per method of the stack
    layers: list[LayerRecord] = field(default_factory=list)
    cuts: list[Cut] = field(default_factory=list)
    door_flops: int = 0  # spent by methods before layer 0
    prefill_logits: int = 0  # rows that went through lm_head in prefill
    decode_kv: list[list[int]] = field(default_factory=list)  # per step, per layer: keys attended
    decode_positions: list[int] = field(default_factory=list)

    @classmethod
    def begin(cls, stories: list[MethodStory], layout: TokenLayout) -> PruningTrace:
        spans, grids = list(layout.spans), list(layout.grids)
        return cls(layout.length, spans, grids, layout.num_visual, stories)

    @property
    def trained(self) -> MethodStory | None:
        """The schedule that the model was trained with; None: it has none."""
        return next((story for story in self.stories if story.name == TRAINED), None)

    @property
    def chosen(self) -> list[MethodStory]:
        """The stories of the methods that a person chose: all but the model's own schedule."""
        return [story for story in self.stories if story.name != TRAINED]

    @property
    def method(self) -> str:
        """The chosen method's name; for a stack, all names joined by "+"."""
        return "+".join(story.name for story in self.chosen)

    @property
    def settings(self) -> dict:
        """The chosen method's settings; for a stack, named "method.field"."""
        chosen = self.chosen
        if len(chosen) == 1:
            return chosen[0].settings
        return {f"{s.name}.{field}": v for s in chosen for field, v in s.settings.items()}

    @property
    def fields(self) -> dict:
        """The chosen settings by field name; if two methods share a name, the first one's."""
        return {n: v for story in reversed(self.chosen) for n, v in story.settings.items()}

    @property
    def why(self) -> str:
        """The methods' sentences, joined in order."""
        return " ".join(story.why for story in self.stories if story.why)

    def note(self, name: str, default=None):
        """The note of this name, from the first method of the stack that has it."""
        found = (story.notes[name] for story in self.stories if name in story.notes)
        return next(found, default)

    @property
    def filtering_layer(self) -> int | None:
        """VisiPruner's filtering layer."""
        return self.note("filtering_layer")

    @property
    def exit_layer(self) -> int | None:
        """The layer after which VisiPruner dropped all visual tokens."""
        return self.note("exit_layer")

    @property
    def calm_layers(self) -> list[int]:
        """VisiPruner's counter of calm layers after each layer (official semantics only)."""
        return self.note("calm_layers", [])

    @property
    def attention_free_layers(self) -> int:
        """Layers that the paper's formula counts without attention; the maximum over methods."""
        return max((s.notes.get("attention_free_layers", 0) for s in self.stories), default=0)

    @property
    def mean_tokens(self) -> float:
        """Mean visual tokens per layer: the budget that this run really used."""
        counts = [record.visual_tokens for record in self.layers]
        return sum(counts) / len(counts) if counts else 0.0

    @property
    def complete(self) -> bool:
        """Did prefill run through every layer?"""
        return bool(self.layers) and self.layers[-1].kv_tokens > 0

    @property
    def drops(self) -> list[Cut]:
        """The cuts after which a layer ran with fewer patches; none after the last layer."""
        last = len(self.layers) - 1
        return [
            cut for cut in self.cuts if cut.after_layer < last and len(cut.kept) < self.num_visual
        ]

    def is_own(self, cut: Cut) -> bool:
        """Did the model's own schedule make this cut?"""
        return cut.by < len(self.stories) and self.stories[cut.by].name == TRAINED

    def cut_before(self, layer: int) -> Cut | None:
        """The last cut before `layer`; None: the layer sees every patch."""
        cuts = [cut for cut in self.cuts if cut.after_layer < layer]
        return cuts[-1] if cuts else None

    def patches_at(self, layer: int) -> list[int]:
        """Patches that have a token of their own in `layer`."""
        cut = self.cut_before(layer)
        return list(range(self.num_visual)) if cut is None else list(cut.kept)

    def presence(self) -> list[float]:
        """(patches,) the share of layers that computed each patch's own token, from 0 to 1.

        A patch that was merged into another one's token has none of its own. The sum is
        `mean_tokens`, less the tokens that are no patch, such as a class token.
        """
        if not self.layers:
            return [0.0] * self.num_visual
        counts = torch.zeros(self.num_visual, device="cpu")
        for record in self.layers:
            counts[self.patches_at(record.layer)] += 1
        return (counts / len(self.layers)).tolist()

    def most_influential(self, first_layer: int = 0) -> tuple[float, int] | None:
        """The smallest cosine of all tests from `first_layer` on, and its layer."""
        seen = [
            (record.influence.lowest, record.layer)
            for record in self.layers[first_layer:]
            if record.influence
        ]
        return min(seen) if seen else None

    def to_json(self) -> dict:
        """Plain lists, numbers and strings; `from_json` gives the same trace back."""
        data = asdict(self)
        for plain, record in zip(data["layers"], self.layers, strict=True):
            plain["influence"] = record.influence and record.influence.to_json()
        return data | {name: getattr(self, name) for name in _DERIVED}

    @classmethod
    def from_json(cls, data: dict) -> PruningTrace:
        """Also reads files written before methods could be stacked."""
        stories = data.get("stories") or [
            {
                "name": data["method"],
                "settings": data["settings"],
                "why": data["why"],
                "notes": {n: data[n] for n in _NOTES if data.get(n) not in (None, [])},
            }
        ]
        data = {name: value for name, value in data.items() if name not in _DERIVED}
        data["stories"] = [MethodStory(**story) for story in stories]
        data["spans"] = [tuple(span) for span in data["spans"]]
        data["grids"] = [tuple(grid) for grid in data["grids"]]
        data["cuts"] = [Cut(**cut) for cut in data["cuts"]]
        data["layers"] = [_layer_from_json(record) for record in data["layers"]]
        return cls(**data)


_NOTES = ("filtering_layer", "exit_layer", "calm_layers", "attention_free_layers")
# Saved beside the stories, because scripts read these names from saved runs.
_DERIVED = ("method", "settings", "why", "mean_tokens", *_NOTES)


def _layer_from_json(record: dict) -> LayerRecord:
    record = dict(record)
    if record["influence"] is not None:
        record["influence"] = Influence.from_json(record["influence"])
    return LayerRecord(**record)
