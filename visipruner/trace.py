"""What happened in one run: which patch survived where, why, and who carries it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from visipruner.layout import TokenLayout

NOBODY = -1  # the owner of a patch that no token carries any more


@dataclass(frozen=True)
class Selection:
    """A method's decision: which tokens go on.

    No method here merges or renumbers yet: `owner`, `hidden` and `compact` are for those that will.

    Args:
        keep: ascending *positions* (indices into the prompt) of the tokens that stay; text
            included.
        stage: a word for this decision, shown on the page ("filter", "exit", ...).
        owner: for every patch the position of the token that carries it, or NOBODY. None: every
            kept patch carries itself.
        scores: one number per visual token that was present, best is largest; for the page.
        hidden: (1, kept, width) replaces the kept tokens' states: methods that merge. None: as is.
        compact: renumber the survivors 0..n-1 from here on instead of keeping their positions.
    """

    keep: tuple[int, ...]
    stage: str
    owner: tuple[int, ...] | None = None
    scores: tuple[float, ...] | None = None
    hidden: Tensor | None = None
    compact: bool = False


@dataclass
class Cut:
    """A selection that was carried out, as the trace remembers it."""

    after_layer: int  # -1: before the first layer
    stage: str
    kept: list[int]  # patches that still have a token of their own
    owner: list[int]  # per patch: position of the token that carries it, or NOBODY
    scores: list[float] | None = None


class Influence:
    """How far each visual token moves the last prompt token's attention output.

    The numbers become lists when somebody asks: a run that nobody looks at needs only `lowest`.

    Args:
        patches: (visual tokens,) which were tested; at least one.
        cos: (visual tokens,) float64, cosine(O, O'_j): float32 has too few numbers near 1.
        l2: (visual tokens,) float64, ||O - O'_j||.
        norm: ||O||, the length that l2 compares with.
    """

    def __init__(self, patches: Tensor, cos: Tensor, l2: Tensor, norm: float):
        self._found, self.norm = (patches, cos, l2), norm

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
        """The patches whose L2 is at least `bar`."""
        patches, _, l2 = self._found
        return patches[l2 >= bar]

    def passing(self, bar: float) -> Tensor:
        """The patches whose L2 is above `bar`."""
        patches, _, l2 = self._found
        return patches[l2 > bar]

    def to_json(self) -> dict:
        return {"patches": self.patches, "cos": self.cos, "l2": self.l2, "norm": self.norm}

    @classmethod
    def from_json(cls, data: dict) -> Influence:
        patches = torch.tensor(data["patches"], dtype=torch.long, device="cpu")
        numbers = {"dtype": torch.float64, "device": "cpu"}
        cos, l2 = (torch.tensor(data[name], **numbers) for name in ("cos", "l2"))
        return cls(patches, cos, l2, data["norm"])

    def __reduce__(self):
        # As plain numbers to another process: tensors would go through memory that dies with it.
        return Influence.from_json, (self.to_json(),)

    def __eq__(self, other) -> bool:
        return isinstance(other, Influence) and self.to_json() == other.to_json()


@dataclass
class LayerRecord:
    """One decoder layer in prefill."""

    layer: int
    tokens: int  # rows that this layer computed
    visual_tokens: int  # ... of which visual
    stage: str = ""
    pairs: int = 0  # query-key pairs scored, counted as full rectangles
    visual_pairs: int = 0  # causal pairs with a visual member whose score was computed
    probe_flops: int = 0  # spent on the method's own test
    influence: Influence | None = None  # None: not tested
    kv_tokens: int = 0  # length of this layer's cache when prefill ends


@dataclass
class PruningTrace:
    """The story of one prompt. Everything that is drawn or counted comes from here."""

    method: str
    settings: dict
    length: int
    spans: list[tuple[int, int]]
    grids: list[tuple[int, int]]
    num_visual: int
    layers: list[LayerRecord] = field(default_factory=list)
    cuts: list[Cut] = field(default_factory=list)
    filtering_layer: int | None = None
    exit_layer: int | None = None
    why: str = ""  # one sentence: what was or was not decided, with the nearest value
    attention_free_layers: int = 0  # layers that the paper's formula counts without attention
    calm_layers: list[int] = field(default_factory=list)  # VisiPruner's counter after each layer
    prefill_logits: int = 0  # rows that went through lm_head in prefill
    decode_kv: list[list[int]] = field(default_factory=list)  # per step, per layer: keys attended
    decode_positions: list[int] = field(default_factory=list)

    @classmethod
    def begin(cls, method: str, settings: dict, layout: TokenLayout) -> PruningTrace:
        return cls(
            method,
            settings,
            layout.length,
            list(layout.spans),
            list(layout.grids),
            layout.num_visual,
        )

    @property
    def complete(self) -> bool:
        """True when prefill went through every layer."""
        return bool(self.layers) and self.layers[-1].kv_tokens > 0

    @property
    def drops(self) -> list[Cut]:
        """The cuts after which a layer ran with fewer patches; after the last one there is none."""
        last = len(self.layers) - 1
        return [
            cut for cut in self.cuts if cut.after_layer < last and len(cut.kept) < self.num_visual
        ]

    def cut_before(self, layer: int) -> Cut | None:
        """The last cut that `layer` feels, or None if it sees every patch."""
        cuts = [cut for cut in self.cuts if cut.after_layer < layer]
        return cuts[-1] if cuts else None

    def patches_at(self, layer: int) -> list[int]:
        """Patches that have a token of their own in `layer`."""
        cut = self.cut_before(layer)
        return list(range(self.num_visual)) if cut is None else list(cut.kept)

    def most_influential(self, first_layer: int = 0) -> tuple[float, int] | None:
        """Smallest cosine that any test saw from a layer on, and its layer: how near it came."""
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
        return data

    @classmethod
    def from_json(cls, data: dict) -> PruningTrace:
        data = dict(data)
        data["spans"] = [tuple(span) for span in data["spans"]]
        data["grids"] = [tuple(grid) for grid in data["grids"]]
        data["cuts"] = [Cut(**cut) for cut in data["cuts"]]
        data["layers"] = [_layer_from_json(record) for record in data["layers"]]
        return cls(**data)


def _layer_from_json(record: dict) -> LayerRecord:
    record = dict(record)
    if record["influence"] is not None:
        record["influence"] = Influence.from_json(record["influence"])
    return LayerRecord(**record)
