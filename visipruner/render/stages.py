"""The stages of a run, each with a sentence that explains the picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from visipruner.methods import METHODS
from visipruner.methods.trained import Trained
from visipruner.render.palette import STAGE_TITLES
from visipruner.trace import NOBODY, Cut, LayerRecord, PruningTrace

_LIVE = {
    "shallow": "The question does not read single patches yet.",
    "search": "Every patch is tested: does it move the last word's attention output?",
    "filter": "Here a patch matters: the strongest stay, the others leave now.",
    "exit": "The last patches hardly matter any more: no visual token is left after this layer.",
    "text only": "No visual token is left. From here on the model works with words only.",
    "waiting": "There is no visual token in this layer: it works with words only.",
}


def steps(trace: PruningTrace) -> list[dict]:
    """Runs of layers in one stage: stage, title, first and last layer, visual tokens, sentence."""
    found = stage_runs(trace.layers, lambda record: _named(trace, record))
    for step in found:
        step["sentence"] = _sentence(trace, step)
    return found


def live_steps(records: Sequence[LayerRecord], num_visual: int) -> list[dict]:
    """The same during prefill: what a stage does is known, what it will decide is not."""
    found = stage_runs(records, lambda record: _named_live(records, record))
    for step in found:
        count = f"{step['visual']} of {num_visual} visual tokens went through this layer."
        step["sentence"] = _LIVE.get(step["stage"]) or count
    return found


def stage_runs(records: Sequence[LayerRecord], named) -> list[dict]:
    """Consecutive layers with the same stage and the same number of visual tokens.

    Args:
        named: record -> (stage, title).
    """
    found: list[dict] = []
    for record in records:
        stage, title = named(record)
        last = found[-1] if found else None
        if last and (last["stage"], last["visual"]) == (stage, record.visual_tokens):
            last["last"] = record.layer
            continue
        found.append(
            {
                "stage": stage,
                "title": title,
                "first": record.layer,
                "last": record.layer,
                "visual": record.visual_tokens,
            }
        )
    return found


def title_of_cut(trace: PruningTrace, cut: Cut) -> str:
    """What the method that cut calls this cut: "Drawn by lot"; "" if it has no words for it."""
    words = _words_of(trace.stories[cut.by].name) if cut.by < len(trace.stories) else {}
    return words.get(cut.stage, "")


def _words_of(name: str) -> Mapping[str, str]:
    """What a method of this name, or a model's own schedule, calls its stages."""
    method = Trained if name == Trained.name else METHODS.get(name)
    return method.stage_words if method else {}


def _named(trace: PruningTrace, record: LayerRecord) -> tuple[str, str]:
    """A layer's stage and title, as named by the method that labelled or cut the layer."""
    if entering(trace, record.layer) is not None:
        return "waiting", STAGE_TITLES["waiting"]
    words = [_words_of(story.name) for story in trace.stories]
    cut, stage = _chosen_before(trace, record.layer) or trace.cut_before(record.layer), record.stage
    if stage == "reduced" and cut and cut.by < len(words) and cut.stage in words[cut.by]:
        return stage, words[cut.by][cut.stage]
    titles = [own[stage] for own in words if stage in own]
    return stage, (titles or [_title(stage)])[0]


def _chosen_before(trace: PruningTrace, layer: int) -> Cut | None:
    """The last cut before `layer` that the model's own schedule did not make."""
    cuts = [cut for cut in trace.cuts if cut.after_layer < layer and not trace.is_own(cut)]
    return cuts[-1] if cuts else None


def _named_live(records: Sequence[LayerRecord], record: LayerRecord) -> tuple[str, str]:
    """As `_named` during a run: the method is unknown, but its labels are in the records."""
    stage = record.stage
    if stage == "text only" and not any(one.visual_tokens for one in records):
        stage = "waiting"  # or no token will ever enter: that is not known yet
    return stage, _title(stage)


def _title(stage: str) -> str:
    words = [
        method.stage_words[stage] for method in METHODS.values() if stage in method.stage_words
    ]
    return STAGE_TITLES.get(stage) or (words or [stage.capitalize()])[0]


def dropping(trace: PruningTrace) -> list[Cut]:
    """`trace.drops` without cuts whose tokens come back."""
    return [cut for cut in trace.drops if not _comes_back(trace, cut)]


def _comes_back(trace: PruningTrace, cut: Cut) -> bool:
    later = (c for c in trace.cuts if c.after_layer > cut.after_layer and c.by == cut.by)
    return any(c.stage == "enter" and len(c.kept) > len(cut.kept) for c in later)


def entering(trace: PruningTrace, layer: int) -> int | None:
    """The layer before which visual tokens enter, if `layer` and all earlier ones run without."""
    if trace.layers[layer].visual_tokens:
        return None
    later = (c.after_layer + 1 for c in trace.cuts if c.stage == "enter" and c.after_layer >= layer)
    return next(later, None)


def most_telling_layer(trace: PruningTrace) -> int:
    """The layer to show first: right after patches were dropped, or where that came nearest."""
    last = len(trace.layers) - 1
    chosen = [cut for cut in dropping(trace) if not trace.is_own(cut)]
    if trace.layers and (entered := entering(trace, 0)) is not None:
        if not (trace.trained and chosen and chosen[0].after_layer >= entered):
            return min(last, entered)
    for cut in chosen[:1] or dropping(trace)[:1]:
        return max(0, min(last, cut.after_layer + bool(cut.kept)))
    nearest = trace.most_influential()
    return nearest[1] if nearest else 0


def _sentence(trace: PruningTrace, step: dict) -> str:
    if not trace.num_visual:
        return "This prompt holds no visual tokens: there is no picture to prune."
    record = trace.layers[step["first"]]
    write = _SENTENCES.get(step["stage"], _plain)
    return write(trace, record, step)


def _shallow(trace: PruningTrace, record: LayerRecord, step: dict) -> str:
    if trace.fields.get("semantics") == "official":
        half = trace.fields.get("blind_half")
        first = "half of it is set to zero" if half else "it goes to one token that stands for all"
        return (
            "The question's attention to the picture is computed, but in the first layer "
            f"{first}, and after that all of it is set to zero, as the published code does it. All "
            f"{record.visual_tokens} visual tokens still pass through."
        )
    return (
        "The question does not read single patches yet: in the first layer all visual tokens count "
        f"as one, after that they are skipped. All {record.visual_tokens} still pass through."
    )


def _search(trace: PruningTrace, record: LayerRecord, step: dict) -> str:
    least = _least_cosine(trace, step)
    threshold = trace.fields.get("layer_threshold")
    found = (
        f" (smallest cosine {least:.5f}, threshold {threshold:g})" if least and threshold else ""
    )
    return (
        "Every patch is tested: how far would the last word's attention output move without it? No "
        f"patch matters enough yet{found}, so all {record.visual_tokens} go on."
    )


def _filter(trace: PruningTrace, record: LayerRecord, step: dict) -> str:
    kept = len(cut_after(trace, record.layer).kept) if cut_after(trace, record.layer) else 0
    least, threshold = _least_cosine(trace, step), trace.fields.get("layer_threshold")
    found = f" (cosine {least:.5f}, below {threshold:g})" if least and threshold else ""
    gone = record.visual_tokens - kept
    outcome = (
        f"{'The strongest patch stays' if kept == 1 else f'The {kept} strongest patches stay'}; "
        f"{gone} of {record.visual_tokens} leave after this layer."
    )
    if record is trace.layers[-1]:
        outcome = "But this is the last layer, so nothing is left to save by dropping any."
    elif not kept:
        outcome = "But none is strong enough to stay: all visual tokens leave after this layer."
    elif not gone:
        outcome = "Every patch is strong enough to stay, so nothing is dropped."
    tested_before = any(earlier.influence for earlier in trace.layers[: record.layer])
    when = "For the first time" if tested_before else "In the first layer that is tested,"
    return f"{when} a patch matters{found}. {outcome}"


def _middle(trace: PruningTrace, record: LayerRecord, step: dict) -> str:
    return (
        f"{_left(record, trace)}. From here on the model sees only the framed patches; what "
        "earlier layers read of the others is mixed into the words."
    )


def _exit(trace: PruningTrace, record: LayerRecord, step: dict) -> str:
    last, threshold = record.visual_tokens, trace.fields.get("exit_threshold")
    found = f" (every cosine at least {threshold:g})" if threshold else ""
    return (
        f"{'The last patch' if last == 1 else f'The last {last} patches'} hardly matter"
        f"{'s' if last == 1 else ''} any more{found}. After this layer no visual token is left: "
        "vision has done its work."
    )


def _text_only(trace: PruningTrace, record: LayerRecord, step: dict) -> str:
    own = [cut for cut in trace.cuts if cut.after_layer < record.layer and trace.is_own(cut)]
    if own and own[-1].stage == "exit":
        left = f"The model was trained without them from layer {own[-1].after_layer + 1} on."
        return f"{_LIVE['text only']} {left}"
    return _LIVE["text only"]


def _waiting(trace: PruningTrace, record: LayerRecord, step: dict) -> str:
    return (
        f"The visual tokens wait outside and enter before layer {entering(trace, record.layer)}: "
        "till then the model works with words only."
        + (" It was trained so." if trace.trained else "")
    )


def _plain(trace: PruningTrace, record: LayerRecord, step: dict) -> str:
    if record.visual_tokens == trace.num_visual:
        here = f"All {record.visual_tokens} visual tokens are here"
        return f"{here}, nothing was dropped before."
    return f"{_left(record, trace)}, as the method chose them.{_merged(trace, record)}"


def _merged(trace: PruningTrace, record: LayerRecord) -> str:
    """Which tokens carry the merged patches, and whether any token is no patch."""
    cut = trace.cut_before(record.layer)
    if cut is None:
        return ""
    sentence, own = "", set(cut.kept)
    carriers = [o for p, o in enumerate(cut.owner) if p not in own and o != NOBODY]
    if carriers:
        many, few = len(carriers), len(set(carriers))
        verb = "also carries" if few == 1 else "also carry"
        patches = "1 other patch" if many == 1 else f"{many} other patches"
        sentence = f" {few} of them {verb} {patches}, merged into {'it' if few == 1 else 'them'}."
    if made := record.visual_tokens - len(own):
        sentence += f" {made} of them {'is' if made == 1 else 'are'} no patch of the picture."
    return sentence


def _left(record: LayerRecord, trace: PruningTrace) -> str:
    verb = "is" if record.visual_tokens == 1 else "are"
    return f"{record.visual_tokens} of {trace.num_visual} visual tokens {verb} left"


_SENTENCES = {
    "shallow": _shallow,
    "search": _search,
    "filter": _filter,
    "middle": _middle,
    "exit": _exit,
    "text only": _text_only,
    "waiting": _waiting,
}


def cut_after(trace: PruningTrace, layer: int) -> Cut | None:
    """The cut made right after `layer`."""
    return next((cut for cut in reversed(trace.cuts) if cut.after_layer == layer), None)


def _least_cosine(trace: PruningTrace, step: dict) -> float | None:
    tested = [r.influence for r in trace.layers[step["first"] : step["last"] + 1] if r.influence]
    return min((min(i.cos) for i in tested if i.cos), default=None)
