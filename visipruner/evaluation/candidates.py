"""Settings of VisiPruner to try, and which of them become gentle, balanced and aggressive.

The bundled model's presets follow GOALS: the most accurate candidate that cuts enough executed
prefill FLOPs, but fewer than the next preset must cut. How much can be cut of another model is not
known, so its presets follow LOSSES: the candidate that cuts most and loses no more answers.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from visipruner.methods import VisiPruner

# The share of FLOPs that a preset must cut.
GOALS = {"gentle": 0.15, "balanced": 0.4, "aggressive": 0.55}
# The share of answers that a preset may lose: that differ from the unpruned model's, or are wrong.
LOSSES = {"gentle": 0.02, "balanced": 0.05, "aggressive": 0.15}
# The model has no layers that use vision as a sink only (dynamics.py), so no stage edits any.
STAGES = ("middle", "deep")
# Each word that the model writes reads the picture again in the lower layers: they keep the cache.
CACHE = "full"
FIRST_TESTED = (4, 5, 6, 7, 8)
COSINES = (0.995, 0.999)
# Shares of sqrt(1 - cosine^2): below 1 the kept set is never empty.
SHARES = (0.01, 0.03, 0.15)
# The words of the question read the picture in every layer, some patch far below both cosines, and
# a patch's influence is spread over them more evenly.
QUESTION_FIRST_TESTED = (2, 3, *FIRST_TESTED)
QUESTION_COSINES = (0.999,)
QUESTION_SHARES = (0.003, 0.007, 0.015, 0.03, 0.06, 0.1, 0.15, 0.3)
EXIT = 0.999
FINALISTS = 4  # per preset
FINALISTS_PER_LAYER = 2  # by loss
ALIKE = 0.02  # by loss: a difference in FLOPs cut that is worth no answer


def candidates(semantics: str, tested: Sequence[int] = FIRST_TESTED) -> list[VisiPruner]:
    """Every setting to try.

    Args:
        tested: the layers from which a filtering layer is looked for.
    """
    by_question = semantics == "question"
    cosines = QUESTION_COSINES if by_question else COSINES
    shares = QUESTION_SHARES if by_question else SHARES
    return [
        VisiPruner(
            semantics=semantics,
            stages=STAGES,
            # The published code starts to test one layer after its shallow layers end.
            shallow_layers=first - (semantics == "official"),
            layer_threshold=cosine,
            tokens_threshold=round(share * (1 - cosine**2) ** 0.5, 4),
            relative=True,
            exit_threshold=EXIT,
            cache_before_filter="kept" if semantics == "official" else CACHE,
        )
        for first, cosine, share in itertools.product(tested, cosines, shares)
    ]


def choose(tried: list[tuple[VisiPruner, dict]]) -> dict[str, tuple[VisiPruner, dict]]:
    """For each preset the most accurate candidate that cuts enough, but less than the next preset
    must. Of equally accurate candidates, the cheapest."""
    chosen = {}
    for (name, goal), most in zip(GOALS.items(), [*list(GOALS.values())[1:], 1], strict=True):
        enough = [pair for pair in tried if goal <= _cut(pair[1]) < most]
        # If no candidate fits, take the one below the goal that cuts most.
        below = [pair for pair in tried if _cut(pair[1]) < goal] or tried
        enough = enough or [max(below, key=lambda pair: _cut(pair[1]))]
        chosen[name] = max(enough, key=lambda pair: (pair[1]["right"], _cut(pair[1])))
    return chosen


def _cut(result: dict) -> float:
    """What a goal is about: of a model with a schedule, the share of what the schedule leaves."""
    return result.get("cut_of_rest", result["flops_cut"])


def choose_by_loss(
    tried: list[tuple[VisiPruner, dict]], full: float
) -> dict[str, tuple[VisiPruner, dict]]:
    """For each preset the candidate that cuts most and loses no more than the preset may.

    Of those that cut about as much, the one that loses least, and of equals the mildest, since few
    questions do not show what it spares. If none loses so little, the one that loses least of all.

    Args:
        full: what the unpruned model reaches.
    """
    chosen = {}
    for name, loss in LOSSES.items():
        # A hair's breadth, because 1 - 0.95 is not 0.05.
        enough = [pair for pair in tried if pair[1]["right"] >= full - loss - 1e-9]
        most = max((pair[1]["flops_cut"] for pair in enough), default=0)
        alike = [pair for pair in enough if pair[1]["flops_cut"] >= most - ALIKE]
        mildest = sorted(alike or tried, key=lambda pair: pair[1]["flops_cut"])
        chosen[name] = max(mildest, key=lambda pair: pair[1]["right"])  # of equals, the first
    return chosen


def _merit(pair: tuple[VisiPruner, dict]) -> tuple[float, float]:
    return pair[1]["right"], pair[1]["flops_cut"]


def best_of_each_layer(tried: list[tuple[VisiPruner, dict]]) -> list[VisiPruner]:
    """The FINALISTS_PER_LAYER best candidates of every tested layer.

    The layer decides most about cut and loss, and few questions cannot tell neighbours apart.
    """
    found = []
    for layer in dict.fromkeys(method.first_tested for method, _ in tried):
        mine = [pair for pair in tried if pair[0].first_tested == layer]
        mine.sort(key=_merit, reverse=True)
        found += [method for method, _ in mine[:FINALISTS_PER_LAYER]]
    return found


def shortlist(tried: list[tuple[VisiPruner, dict]]) -> list[VisiPruner]:
    """For every preset, the best candidates of a few layers.

    Few questions cannot tell neighbours within a layer apart, so each layer sends one.
    """
    found = []
    for preset in GOALS:
        left = tried
        for _ in range(FINALISTS):
            pick = choose(left)[preset][0]
            found.append(pick)
            rest = [pair for pair in left if pair[0].first_tested != pick.first_tested]
            left = rest or [pair for pair in left if pair[0] is not pick] or left
    return list(dict.fromkeys(found))


def table(chosen: dict, full_tokens: float) -> dict:
    """Thresholds at the five levels 0, 0.25, 0.5, 0.75 and 1, as levels.py reads them.

    No run uses level 0 (it keeps everything); level 1 is the strongest preset.
    """
    picks = [chosen[name][0] for name in GOALS]
    rows = {"stages": STAGES, "relative": True}
    rows["cache_before_filter"] = picks[0].cache_before_filter
    for name in ("shallow_layers", "layer_threshold", "tokens_threshold", "exit_threshold"):
        values = [getattr(method, name) for method in picks]
        rows[name] = five(values, values[0])
    means = [round(chosen[name][1]["tokens"], 1) for name in GOALS]
    rows["tokens"] = five(means, full_tokens)
    rows["measured"] = {
        name: {key: round(result[key], 4) for key in ("right", "flops_cut")}
        for name, (_, result) in chosen.items()
    }
    return rows


def five(values: list, first) -> list:
    """The values at the five levels, from those of three presets."""
    return [first, *values, values[-1]]
