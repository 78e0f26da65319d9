"""The stages of a run, each with a sentence that answers "What am I looking at?"."""

from __future__ import annotations

from visipruner.render.palette import STAGE_TITLES
from visipruner.trace import Cut, LayerRecord, PruningTrace

PRESENT = ("full", "shallow", "search", "filter", "middle", "exit", "reduced")


def steps(trace: PruningTrace) -> list[dict]:
    """Runs of layers in one stage: stage, title, first and last layer, visual tokens, sentence."""
    found: list[dict] = []
    for record in trace.layers:
        last = found[-1] if found else None
        if last and last["stage"] == record.stage and last["visual"] == record.visual_tokens:
            last["last"] = record.layer
            continue
        found.append(
            {
                "stage": record.stage,
                "title": STAGE_TITLES.get(record.stage, record.stage.capitalize()),
                "first": record.layer,
                "last": record.layer,
                "visual": record.visual_tokens,
            }
        )
    for step in found:
        step["sentence"] = _sentence(trace, step)
    return found


def most_telling_layer(trace: PruningTrace) -> int:
    """Where to look first: the layer with the fewest visual tokens that still has some."""
    seen = [(r.visual_tokens, r.layer) for r in trace.layers if r.visual_tokens]
    return min(seen)[1] if seen else 0


def _sentence(trace: PruningTrace, step: dict) -> str:
    if not trace.num_visual:
        return "This prompt holds no visual tokens: there is no picture to prune."
    record = trace.layers[step["first"]]
    write = _SENTENCES.get(step["stage"], _plain)
    return write(trace, record, step)


def _shallow(trace: PruningTrace, record: LayerRecord, step: dict) -> str:
    if trace.settings.get("semantics") == "official":
        return (
            "The question's attention to the picture is computed and then set to zero, as the "
            f"published code does it. All {record.visual_tokens} visual tokens still pass through."
        )
    return (
        "The question does not read single patches yet: in the first layer all visual tokens count "
        f"as one, after that they are skipped. All {record.visual_tokens} still pass through."
    )


def _search(trace: PruningTrace, record: LayerRecord, step: dict) -> str:
    least = _least_cosine(trace, step)
    threshold = trace.settings.get("layer_threshold")
    found = (
        f" (smallest cosine {least:.5f}, threshold {threshold:g})" if least and threshold else ""
    )
    return (
        "Every patch is tested: how far would the last word's attention output move without it? No "
        f"patch matters enough yet{found}, so all {record.visual_tokens} go on."
    )


def _filter(trace: PruningTrace, record: LayerRecord, step: dict) -> str:
    kept = len(cut_after(trace, record.layer).kept) if cut_after(trace, record.layer) else 0
    least, threshold = _least_cosine(trace, step), trace.settings.get("layer_threshold")
    found = f" (cosine {least:.5f}, below {threshold:g})" if least and threshold else ""
    gone = record.visual_tokens - kept
    outcome = (
        f"{'The strongest patch stays' if kept == 1 else f'The {kept} strongest patches stay'}; "
        f"{gone} of {record.visual_tokens} leave after this layer."
    )
    if not kept:
        outcome = "But none is strong enough to stay: all visual tokens leave after this layer."
    elif not gone:
        outcome = "Every patch is strong enough to stay, so nothing is dropped."
    return f"For the first time a patch matters{found}. {outcome}"


def _middle(trace: PruningTrace, record: LayerRecord, step: dict) -> str:
    return (
        f"{record.visual_tokens} of {trace.num_visual} visual tokens are left. What is lit in the "
        "picture is all that the model can still see of it."
    )


def _exit(trace: PruningTrace, record: LayerRecord, step: dict) -> str:
    last, threshold = record.visual_tokens, trace.settings.get("exit_threshold")
    found = f" (every cosine at least {threshold:g})" if threshold else ""
    return (
        f"{'The last patch' if last == 1 else f'The last {last} patches'} hardly matter"
        f"{'s' if last == 1 else ''} any more{found}. After this layer no visual token is left: "
        "vision has done its work."
    )


def _text_only(trace: PruningTrace, record: LayerRecord, step: dict) -> str:
    return "No visual token is left. From here on the model works with words only."


def _plain(trace: PruningTrace, record: LayerRecord, step: dict) -> str:
    if record.visual_tokens == trace.num_visual:
        return f"All {record.visual_tokens} visual tokens are here; nothing has been dropped yet."
    return (
        f"{record.visual_tokens} of {trace.num_visual} visual tokens are left, as chosen by the "
        f"method “{trace.method}”."
    )


_SENTENCES = {
    "shallow": _shallow,
    "search": _search,
    "filter": _filter,
    "middle": _middle,
    "exit": _exit,
    "text only": _text_only,
}


def cut_after(trace: PruningTrace, layer: int) -> Cut | None:
    """The cut that was made right after `layer`."""
    return next((cut for cut in reversed(trace.cuts) if cut.after_layer == layer), None)


def _least_cosine(trace: PruningTrace, step: dict) -> float | None:
    tested = [r.influence for r in trace.layers[step["first"] : step["last"] + 1] if r.influence]
    return min((min(i.cos) for i in tested if i.cos), default=None)
