"""VisiPruner (arXiv 2510.17205): sinks in shallow layers, a few tokens in the middle, then none.

It has three semantics. "paper" is the text of the paper with its gaps filled. "question" is ours:
as the paper, but the influence is measured on all words after the picture and not on the last
prompt token alone, where only the answer's first word is made. "official" is the published code
(EIT-NLP/VisiPruner, commit d778622) with these quirks:

* the influence test starts one layer later than the shallow edits end (a strict comparison);
* attention is zeroed after softmax without renormalising, in prefill only; caches stay whole;
* only layer 0 edits the attention of visual tokens; for 13B it blocks half of the picture and
  merges nothing;
* a token stays when its L2 is above the threshold (paper: at or above it);
* the count of calm layers is never reset; an empty kept set counts as calm; a run that kept every
  token goes on counting and never exits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from visipruner.attention import Plan, Span, size
from visipruner.errors import Refused, quoted
from visipruner.inputs import check_choice, check_number
from visipruner.layout import Range, gaps, to_ranges
from visipruner.levels import STEPS, between, nearest
from visipruner.methods.base import PruningMethod
from visipruner.settings import CHOICE, CHOICES, FLAG, INT, NUMBER, setting
from visipruner.view import LayerInput

STAGES = ("shallow", "middle", "deep")
SEMANTICS = ("paper", "official", "question")
CALM_LAYERS_BEFORE_EXIT = 2  # "two consecutive layers", paper section 5

# Settings at the five tabulated levels for LLaVA-1.5; "balanced" is the paper's. A checkpoint's
# `presets.json` replaces them.
_THRESHOLDS = {
    "relative": False,
    "layer_threshold": (0.5, 0.99, 0.995, 0.998, 0.9999),
    "tokens_threshold": (0.0, 0.1, 0.2, 0.4, 1.0),
    "exit_threshold": (1.0, 0.9995, 0.999, 0.995, 0.9),
}
PUBLISHED = {
    "paper": {"shallow_layers": (7,) * 5, **_THRESHOLDS},
    "official": {"shallow_layers": (6,) * 5, **_THRESHOLDS},
    "question": {"shallow_layers": (7,) * 5, **_THRESHOLDS},
}


@dataclass(frozen=True)
class VisiPruner(PruningMethod):
    """Prune by measured influence on the last prompt token.

    Args:
        semantics: "paper", "official" or "question".
        stages: any of "shallow", "middle", "deep"; a string with commas is accepted.
        shallow_layers: how many layers, from layer 0, have their attention edited.
        layer_threshold: the filtering layer is the first tested one where a visual token's cosine
            falls below this.
        tokens_threshold: tokens with at least this L2 influence in the filtering layer stay
            (official: with more).
        relative: measure L2 in units of ||O||, for models with another scale than LLaVA-1.5. A
            tokens_threshold below sqrt(1 - layer_threshold^2) never empties the kept set.
        exit_threshold: a layer is calm when no kept token's cosine falls below this. The paper does
            not state it; the published code uses 0.999.
        merge_index: the visual token whose value replaces all visual values in layer 0 (paper: any
            token).
        cache_before_filter: "kept" or "full": what layers up to the filtering layer cache (paper
            only).
        blind_half: official layer 0 for 13B: the question cannot attend to the first half of the
            picture, and nothing is merged (official only).

    Raises:
        Refused: a value is out of range; the sentence names both.
    """

    name: ClassVar[str] = "visipruner"
    title: ClassVar[str] = "VisiPruner: by measured influence"
    paper: ClassVar[str] = "arXiv 2510.17205 (EMNLP 2025)"
    source: ClassVar[str] = "EIT-NLP/VisiPruner d778622"
    rule: ClassVar[str] = "influence on the last prompt token; three stages"
    adapts: ClassVar[bool] = True
    stage_words: ClassVar[Mapping[str, str]] = {
        "shallow": "Shallow",
        "search": "Searching",
        "filter": "Filtering",
        "middle": "Middle",
        "exit": "Exit",
        "text only": "Deep",
    }

    semantics: str = setting("paper", "Rules", CHOICE, options={name: name for name in SEMANTICS})
    stages: tuple[str, ...] = setting(
        STAGES,
        "Stages that act",
        CHOICES,
        options={
            "shallow, middle, deep": STAGES,
            "middle, deep": ("middle", "deep"),
            "shallow, middle": ("shallow", "middle"),
            "middle": ("middle",),
            "shallow": ("shallow",),
            "none": (),
        },
    )
    shallow_layers: int = setting(
        7,
        "First layers, not tested (no patch is read in them if “shallow” acts)",
        INT,
        low=0,
        high=1000,
    )
    layer_threshold: float = setting(
        0.995, "A patch matters below this cosine", NUMBER, low=-1, high=1
    )
    tokens_threshold: float = setting(
        0.2, "A patch stays from this influence (L2) on", NUMBER, low=0, high=1e9
    )
    relative: bool = setting(False, "Measure L2 relative to the output's length", FLAG)
    exit_threshold: float = setting(
        0.999, "A layer is calm when no cosine is below", NUMBER, low=-1, high=1
    )
    merge_index: int = setting(
        0, "The patch that stands for all in layer 0", INT, low=0, high=1_000_000
    )
    cache_before_filter: str = setting(
        "kept",
        "What early layers keep in the cache",
        CHOICE,
        options={"kept": "kept", "full": "full"},
    )
    blind_half: bool = setting(False, "The published code's rule for 13B models", FLAG)

    def check(self):
        if "deep" in self.stages and "middle" not in self.stages and not self.official:
            raise Refused(
                "The deep stage needs the middle stage: it watches the tokens kept there."
            )

    @classmethod
    def at_level(cls, level, facts, given):
        """By the checkpoint's presets, else by LLaVA-1.5's; `given` may name the semantics."""
        semantics = given.get("semantics", "paper")
        check_choice("semantics", semantics, SEMANTICS)
        if level == 0:
            return cls(semantics, (), 0)
        presets = facts.presets or {}  # may hold only a system sentence
        own = presets.get(semantics)
        if not own and semantics == "question":  # nearer than LLaVA's, if the model has them
            own = presets.get("paper")
        # Each preset was calibrated as a whole: a mixture of two may be worse than both.
        table, take = (own, nearest) if own else (PUBLISHED[semantics], between)
        # The published code reads 13B from the path's name; 13B has 40 layers.
        blind_half = semantics == "official" and facts.layers == 40
        return cls(semantics, blind_half=blind_half, **_settings(table, level, take))

    @classmethod
    def for_budget(cls, tokens, facts):
        """The calibrated setting whose measured mean is nearest to the budget."""
        table = (facts.presets or {}).get("paper", {})
        measured = table.get("tokens")
        if not measured:
            raise Refused(
                "VisiPruner adapts to the question, and no budget was measured for this model: "
                "choose a level, or run `python -m visipruner calibrate MODEL --pictures DIR`."
            )
        step = min(range(len(STEPS)), key=lambda step: abs(measured[step] - tokens))
        return cls.at_level(STEPS[step], facts, {})

    @classmethod
    def from_official_config(cls, config: Mapping, model_size: str = "7b") -> VisiPruner:
        """From the published code's configuration dictionary.

        Args:
            config: {"mode": [...], "shallow_mid_layer": 6, "layer_threshold": 0.995,
                "tokens_threshold": 0.2}; disabled modes need no values.
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

    def within(self, facts):
        """Late entry takes the place of the shallow stage: the test starts where tokens enter."""
        first = self.first_tested
        if not facts.enter <= first < facts.last:
            first = facts.enter
        shallow = max(0, first - (self.first_tested - self.shallow_layers))
        stages = self.stages if not facts.enter else tuple(s for s in self.stages if s != "shallow")
        return replace(self, stages=stages, shallow_layers=shallow)

    def check_span(self, facts):
        if facts.enter and "shallow" in self.stages:
            raise Refused(
                f"This model has no shallow stage to edit: its visual tokens enter at layer "
                f"{facts.enter}."
            )

    @property
    def official(self) -> bool:
        return self.semantics == "official"

    @property
    def first_tested(self) -> int:
        return self.shallow_layers + (1 if self.official else 0)

    # -- shallow: attention plans

    def attend(self, view: LayerInput) -> Plan | None:
        if "shallow" not in self.stages or view.layer >= self.shallow_layers:
            return None
        view.label("shallow")
        # Without other methods nothing is cut before these layers: all but layer 0 share one plan.
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
            for part in gaps(text_after, len(view.tokens))
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

    def queries(self, view):
        if self.semantics != "question" or "middle" not in self.stages:
            return None
        filtered = getattr(view.memory, "filtered_at", None)
        tested = view.layer >= self.first_tested if filtered is None else "deep" in self.stages
        if not tested or not len(view.visual_rows):
            return None
        (_, end), tokens = view.layout.spans[-1], view.tokens
        rows = ((tokens >= end) & (tokens < view.layout.length)).nonzero().flatten()
        if not len(rows):
            raise Refused("VisiPruner's rules “question” need words after the picture.")
        return rows

    def _influence(self, view):
        return view.influence_on_question() if self.semantics == "question" else view.influence()

    def select(self, view):
        memory = view.memory
        if not hasattr(memory, "filtered_at"):
            memory.filtered_at, memory.calm, memory.kept = None, 0, None
            memory.left_at, memory.calm_layers = None, []
        if memory.filtered_at is None:
            selection = self._search(view)
        else:
            selection = self._watch(view)
        memory.calm_layers.append(memory.calm)
        return selection

    def _search(self, view):
        if "middle" not in self.stages or view.layer < self.first_tested:
            return None
        if not len(view.visual_rows):
            return None
        found = self._influence(view)
        view.label("search")
        if not found.lowest < self.layer_threshold:
            return None
        unit = found.norm if self.relative else 1.0
        bar = self.tokens_threshold * unit
        kept = found.passing(bar) if self.official else found.reaching(bar)
        view.memory.filtered_at, view.memory.kept = view.layer, len(kept)
        view.label("filter")
        if not len(kept) and "deep" in self.stages and not self.official:
            view.memory.left_at = view.layer
        return view.keep_visual(kept, "filter", scores=found.l2)

    def _watch(self, view):
        """Count calm layers after the filtering layer; after the second, vision exits."""
        memory, present = view.memory, len(view.visual_rows)
        if present:
            view.label("middle")
        if "deep" not in self.stages:
            return None
        if not present:
            # The published code goes on counting although the kept set is empty.
            memory.calm += self.official and memory.kept == 0
            return None
        if self._influence(view).lowest < self.exit_threshold:
            memory.calm = memory.calm if self.official else 0
            return None
        memory.calm += 1
        all_kept = self.official and memory.kept == view.entered
        if memory.calm < CALM_LAYERS_BEFORE_EXIT or all_kept:
            return None
        memory.left_at = view.layer
        view.label("exit")
        return view.keep_visual(view.visual_rows[:0], "exit")

    # -- when prefill ends

    def cached(self, layer, trace, memory):
        if self.official:
            return None
        if layer < self.shallow_layers and "shallow" in self.stages:
            return ()
        filtered = getattr(memory, "filtered_at", None)  # unset without a picture
        if filtered is None or layer > filtered or self.cache_before_filter == "full":
            return None
        # Take the last cut there: in a stack, other methods may have dropped more.
        return [cut for cut in trace.cuts if cut.after_layer == filtered][-1].visual

    def explain(self, trace, memory):
        if not hasattr(memory, "filtered_at"):  # without a picture
            return "", {}
        filtered = memory.filtered_at
        edited = self.shallow_layers if "shallow" in self.stages else 0
        notes = {
            "filtering_layer": filtered,
            "exit_layer": memory.left_at,
            "attention_free_layers": edited if filtered is None else filtered + 1,
        }
        if self.official:
            notes["calm_layers"] = memory.calm_layers
        return self._why(trace, memory), notes

    def _why(self, trace, memory) -> str:
        filtered, last = memory.filtered_at, len(trace.layers) - 1
        if "middle" not in self.stages:
            return "The middle stage is off: no layer was tested and no token was dropped."
        if filtered is None:
            nearest = trace.most_influential(self.first_tested)  # a probe tests all layers
            if nearest is None:
                return "No layer was tested: the model has too few layers for these settings."
            return (
                f"Nothing was filtered: no visual token's cosine fell below "
                f"{self.layer_threshold:g}. The nearest was {nearest[0]:.5f} in layer {nearest[1]}."
            )
        kept = len(memory.cuts[0].visual)
        if filtered == last:
            return (
                f"Nothing was dropped: only layer {filtered}, the last one, would have filtered, "
                f"and kept {kept}."
            )
        if not kept:
            return (
                f"Nothing was kept: after layer {filtered} no token's influence reached the "
                f"threshold {self.tokens_threshold:g}, so vision left there."
            )
        plural = "" if kept == 1 else "s"
        ending = self._ending(trace, memory, kept)
        return f"Layer {filtered} filtered: {kept} visual token{plural} stayed.{ending}"

    def _ending(self, trace, memory, kept: int) -> str:
        if memory.left_at is not None:
            return f" No visual token was left after layer {memory.left_at}."
        if "deep" not in self.stages or not trace.layers[-1].visual_tokens:
            return ""  # another method of the stack made them leave, and says so
        if self.official and memory.kept == memory.entered:
            return " The published code lets them leave only if it dropped some before."
        they = "It" if kept == 1 else "They"
        return f" {they} stayed to the end: no two calm layers followed."


def _until(ranges: tuple[Range, ...], row: int) -> tuple[Range, ...]:
    """The ranges that end at `row` or before."""
    return tuple(part for part in ranges if part[1] <= row)


def _settings(table: Mapping, level: float, take) -> dict:
    """A table's settings at a level; `take` chooses among its five values."""
    cosines = {
        name: 1 - take([1 - value for value in table[name]], level)
        for name in ("layer_threshold", "exit_threshold")
    }
    return {
        "stages": tuple(table.get("stages", STAGES)),
        "shallow_layers": nearest(table["shallow_layers"], level),
        "relative": table["relative"],
        "cache_before_filter": table.get("cache_before_filter", "kept"),
        "tokens_threshold": take(table["tokens_threshold"], level),
        **cosines,
    }


def check_presets(presets):
    """Check a checkpoint's own settings.

    Raises:
        Refused: says what is wrong.
    """
    if not isinstance(presets, dict) or not isinstance(presets.get("paper"), dict):
        raise Refused("it has no settings for 'paper'.")
    for semantics in SEMANTICS:
        if semantics in presets:
            _check_table(presets[semantics], semantics)


def _check_table(table, semantics: str):
    if not isinstance(table, dict):
        raise Refused(f"the settings for {semantics!r} must be an object.")
    names = ["shallow_layers", "layer_threshold", "tokens_threshold", "exit_threshold"]
    for name in [*names, *(["tokens"] if "tokens" in table else [])]:
        values = table.get(name)
        if not isinstance(values, list) or len(values) != len(STEPS):
            raise Refused(f"{name} of {semantics!r} must be a list of five numbers.")
        for value in values:
            check_number(f"each {name} of {semantics!r}", value, -1, 1e9)
    if not isinstance(table.get("stages", []), list):
        raise Refused(f"stages of {semantics!r} must be a list.")
    if not isinstance(table.get("relative"), bool):
        raise Refused(f"relative of {semantics!r} must be true or false.")
    # The method checks the ranges.
    for level in STEPS:
        VisiPruner(semantics=semantics, **_settings(table, level, nearest))
