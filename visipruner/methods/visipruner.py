"""VisiPruner (arXiv 2510.17205): sinks in shallow layers, a few tokens in the middle, then none.

Two semantics by name. "paper" is the text of the paper with its gaps filled; "official" is the
published code (EIT-NLP/VisiPruner, commit d778622) with its quirks, each named here:

* the influence test starts one layer later than the shallow edits end (a strict comparison);
* attention is zeroed after softmax without renormalising, in prefill only; caches stay whole;
* only layer 0 touches what visual tokens see; for 13B it blocks half of the picture, merges
  nothing;
* a token stays when its L2 is above the threshold (paper: at least that);
* calm layers are counted and never reset, an empty kept set counts as calm, and a run in which
  every token was kept counts on and never exits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from reprlib import repr as quoted  # cuts what is long
from typing import ClassVar

from visipruner.attention import Plan, Span, size
from visipruner.errors import Refused, quoted
from visipruner.inputs import check_number, set_whole
from visipruner.layout import Range, gaps, to_ranges
from visipruner.methods.base import PruningMethod
from visipruner.view import LayerInput

STAGES = ("shallow", "middle", "deep")
CALM_LAYERS_BEFORE_EXIT = 2  # "two consecutive layers", paper section 5


@dataclass(frozen=True)
class VisiPruner(PruningMethod):
    """Prune by measured influence on the last prompt token.

    Args:
        semantics: "paper" or "official".
        stages: any of "shallow", "middle", "deep"; one string with commas will do.
        shallow_layers: how many layers, from layer 0, have their attention edited.
        layer_threshold: the filtering layer is the first tested one where a visual token's cosine
            falls below this.
        tokens_threshold: there, tokens with at least this L2 influence stay (official: with more).
        relative: measure L2 in units of ||O||, for models of another scale than LLaVA-1.5. Below
            sqrt(1 - layer_threshold^2) it never empties the kept set.
        exit_threshold: a layer is calm when no kept token's cosine falls below this. The paper does
            not give it; 0.999 is the published code's.
        merge_index: the visual token whose value stands for all of them in layer 0 (paper: any
            does).
        cache_before_filter: "kept" or "full": what layers up to the filtering layer cache (paper
            only).
        blind_half: official layer 0 for 13B: question to the first half of the picture is cut
            instead of merged (official only).

    Raises:
        Refused: for a value out of its range, naming both.
    """

    name: ClassVar[str] = "visipruner"

    semantics: str = "paper"
    stages: tuple[str, ...] = STAGES
    shallow_layers: int = 7
    layer_threshold: float = 0.995
    tokens_threshold: float = 0.2
    relative: bool = False
    exit_threshold: float = 0.999
    merge_index: int = 0
    cache_before_filter: str = "kept"
    blind_half: bool = False

    def __post_init__(self):
        stages = self.stages.split(",") if isinstance(self.stages, str) else self.stages
        if not isinstance(stages, (list, tuple)):
            raise Refused(f"stages must be a list of {', '.join(STAGES)}, not {quoted(stages)}.")
        object.__setattr__(self, "stages", tuple(stage for stage in stages if stage != ""))
        for name, value, allowed in (
            ("semantics", self.semantics, ("paper", "official")),
            ("cache_before_filter", self.cache_before_filter, ("kept", "full")),
            *(("stages", stage, STAGES) for stage in self.stages),
        ):
            if value not in allowed:
                raise Refused(f"{name} must be one of {', '.join(allowed)}, not {quoted(value)}.")
        for name in ("relative", "blind_half"):
            if not isinstance(getattr(self, name), bool):
                raise Refused(f"{name} must be true or false, not {quoted(getattr(self, name))}.")
        set_whole(self, "shallow_layers", 0, 1000)
        check_number("layer_threshold", self.layer_threshold, -1, 1)
        check_number("tokens_threshold", self.tokens_threshold, 0, 1e9)
        check_number("exit_threshold", self.exit_threshold, -1, 1)
        set_whole(self, "merge_index", 0, 1_000_000)
        if "deep" in self.stages and "middle" not in self.stages and not self.official:
            raise Refused(
                "The deep stage needs the middle stage: it watches the tokens kept there."
            )

    @classmethod
    def from_official_config(cls, config: Mapping, model_size: str = "7b") -> VisiPruner:
        """From the dictionary that users of the published code have.

        Args:
            config: {"mode": [...], "shallow_mid_layer": 6, "layer_threshold": 0.995,
                "tokens_threshold": 0.2}; modes that are off need no values.
            model_size: "7b" or "13b"; the published code reads it from the model's path.
        """
        if model_size not in ("7b", "13b"):
            raise Refused(f"model_size must be 7b or 13b, not {quoted(model_size)}.")
        if not isinstance(config, Mapping) or not isinstance(config.get("mode"), (list, tuple)):
            raise Refused("The configuration needs 'mode': a list of shallow, middle, deep.")
        mode = tuple(config["mode"])
        needed = ["shallow_mid_layer"] if {"shallow", "middle"} & set(mode) else []
        needed += ["layer_threshold", "tokens_threshold"] if "middle" in mode else []
        missing = [key for key in needed if config.get(key) is None]
        if missing:
            raise Refused(f"The configuration lacks {', '.join(missing)}, which {mode} needs.")
        return cls(
            semantics="official",
            stages=mode,
            shallow_layers=config["shallow_mid_layer"] if needed else 0,
            layer_threshold=config.get("layer_threshold") if "middle" in mode else 0.995,
            tokens_threshold=config.get("tokens_threshold") if "middle" in mode else 0.2,
            blind_half=model_size == "13b",
        )

    @property
    def official(self) -> bool:
        return self.semantics == "official"

    @property
    def first_tested(self) -> int:
        return self.shallow_layers + (1 if self.official else 0)

    # -- shallow: who sees whom

    def attend(self, view: LayerInput) -> Plan | None:
        if "shallow" not in self.stages or view.layer >= self.shallow_layers:
            return None
        view.record.stage = "shallow"
        # Alone, VisiPruner cuts nothing before these layers: all but layer 0 have one plan.
        made_for = view.layer == 0, view.visual_ranges, view.text_ranges
        if getattr(view.memory, "made_for", None) != made_for:
            make = self._official_plan if self.official else self._paper_plan
            view.memory.made_for, view.memory.plan = made_for, make(view)
        return view.memory.plan

    def _paper_plan(self, view: LayerInput) -> Plan:
        plan = []
        for start, stop in view.visual_ranges:
            before = _until(view.text_ranges, start)
            if not before:
                raise Refused(
                    "The shallow stage needs a text token (such as <s>) before the picture."
                )
            plan.append(Span(queries=((start, stop),), keys=before))
        if view.layer > 0:
            return (*plan, Span(queries=view.text_ranges, keys=view.text_ranges))
        for start, stop in view.text_ranges:
            seen, carrier = _until(view.visual_ranges, start), 0
            if seen:
                carrier = int(view.visual_rows[min(self.merge_index, size(seen) - 1)])
            plan.append(Span(((start, stop),), ((0, stop),), merged=seen, merge_into=carrier))
        return tuple(plan)

    def _official_plan(self, view: LayerInput) -> Plan:
        all_visual = view.visual_ranges
        first = all_visual[0][0]
        text_after = tuple(part for part in view.text_ranges if part[0] > first)
        blind = all_visual if view.layer == 0 else ()
        plan = [
            Span(queries=(part,), keys=((0, part[1]),), zeroed=blind)
            for part in gaps(text_after, len(view.positions))
        ]
        if not text_after:
            return tuple(plan)
        rows = {"queries": text_after, "keys": ((0, text_after[-1][1]),)}
        if view.layer > 0:
            plan.append(Span(**rows, zeroed=all_visual))
        elif self.blind_half:
            half = view.visual_rows[: len(view.visual_rows) // 2].tolist()
            plan.append(Span(**rows, zeroed=to_ranges(half)))
        else:
            plan.append(Span(**rows, merged=all_visual, merge_into=first))
        return tuple(plan)

    # -- middle and deep: which tokens stay

    def select(self, view):
        memory = view.memory
        if not hasattr(memory, "filtered_at"):
            memory.filtered_at, memory.calm = None, 0
        if memory.filtered_at is None:
            selection = self._search(view)
        else:
            selection = self._watch(view)
        if self.official:
            view.trace.calm_layers.append(memory.calm)
        if view.layer == view.num_layers - 1:
            self._explain(view)
        return selection

    def _search(self, view):
        if "middle" not in self.stages or view.layer < self.first_tested:
            return None
        found = view.influence()
        view.record.stage = "search"
        if not found.lowest < self.layer_threshold:
            return None
        unit = found.norm if self.relative else 1.0
        bar = self.tokens_threshold * unit
        kept = found.passing(bar) if self.official else found.reaching(bar)
        view.memory.filtered_at, view.memory.kept = view.layer, len(kept)
        view.trace.filtering_layer = view.layer
        view.record.stage = "filter"
        if not len(kept) and "deep" in self.stages and not self.official:
            view.trace.exit_layer = view.layer
        return view.keep_patches(kept, "filter", scores=found.l2)

    def _watch(self, view):
        """Count calm layers after the filtering layer; the second lets vision leave."""
        memory, present = view.memory, len(view.patches)
        if present:
            view.record.stage = "middle"
        if "deep" not in self.stages:
            return None
        if not present:
            # The published code goes on counting an empty kept set, though nothing is left to drop.
            memory.calm += self.official and memory.kept == 0
            return None
        if view.influence().lowest < self.exit_threshold:
            memory.calm = memory.calm if self.official else 0
            return None
        memory.calm += 1
        all_kept = self.official and memory.kept == view.layout.num_visual
        if memory.calm < CALM_LAYERS_BEFORE_EXIT or all_kept:
            return None
        view.trace.exit_layer = view.layer
        view.record.stage = "exit"
        return view.keep_patches(view.patches[:0], "exit")

    # -- afterwards

    def cached(self, layer, trace):
        if self.official:
            return None
        if layer < self.shallow_layers and "shallow" in self.stages:
            return []
        filtered = trace.filtering_layer
        if filtered is None or layer > filtered or self.cache_before_filter == "full":
            return None
        return next(cut.kept for cut in trace.cuts if cut.after_layer == filtered)

    def _explain(self, view):
        trace, filtered = view.trace, view.trace.filtering_layer
        edited = self.shallow_layers if "shallow" in self.stages else 0
        trace.attention_free_layers = edited if filtered is None else filtered + 1
        if "middle" not in self.stages:
            trace.why = "The middle stage is off: no layer was tested and no token was dropped."
        elif filtered is None:
            nearest = trace.most_influential(self.first_tested)  # a probe tests all
            trace.why = (
                "No layer was tested: the model has too few layers for these settings."
                if nearest is None
                else f"Nothing was filtered: no visual token's cosine fell below "
                f"{self.layer_threshold:g}. The nearest was {nearest[0]:.5f} in layer {nearest[1]}."
            )
        elif filtered == view.num_layers - 1:
            trace.why = (
                f"Nothing was dropped: only layer {filtered}, the last one, would have filtered, "
                f"and kept {view.memory.kept}."
            )
        elif not view.memory.kept:
            trace.why = (
                f"Nothing was kept: after layer {filtered} no token's influence reached the "
                f"threshold {self.tokens_threshold:g}, so vision left there."
            )
        else:
            plural = "" if view.memory.kept == 1 else "s"
            trace.why = (
                f"Layer {filtered} filtered: {view.memory.kept} visual token{plural} stayed."
            )
            if trace.exit_layer is not None:
                trace.why += f" No visual token was left after layer {trace.exit_layer}."
            elif self.official and view.memory.kept == view.layout.num_visual:
                trace.why += " The published code lets them leave only if it dropped some before."
            elif "deep" in self.stages:
                they = "It" if view.memory.kept == 1 else "They"
                trace.why += f" {they} stayed to the end: no two calm layers followed."


def _until(ranges: tuple[Range, ...], row: int) -> tuple[Range, ...]:
    """Those that end at `row` or before."""
    return tuple(part for part in ranges if part[1] <= row)
