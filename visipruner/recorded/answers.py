"""The answers of a saved run, checked: texts, times, counts and traces that fit together."""

from __future__ import annotations

from collections.abc import Sequence

from visipruner.errors import Refused
from visipruner.flops import ExecutedFlops
from visipruner.recorded.checked import Node, same_length
from visipruner.recorded.traces import MOST_STEPS, read_trace
from visipruner.running.results import Answer, Counts, Times
from visipruner.trace import PruningTrace

MOST_SIDES = 40
_MOST_MS = 1e12


def read_answers(node: Node) -> list[Answer]:
    """All answers of a file, which are about one prompt.

    Args:
        node: the file.

    Raises:
        Refused: one sentence about the first wrong value.
    """
    answers = [_answer(one) for one in node.get("answers").each(MOST_SIDES, least=2)]
    _check_together(node, answers)
    return answers


def read_probe(node: Node | None, first: PruningTrace) -> PruningTrace | None:
    """The influence in every layer of the full model, if the run measured it."""
    if node is None:
        return None
    trace = read_trace(node)
    _check_same_prompt(node, trace, first)
    return trace


def _answer(node: Node) -> Answer:
    trace = read_trace(node.get("trace"))
    tokens = node.get("tokens").wholes(0, 10**9, MOST_STEPS)
    times, counts = _times(node.get("times")), _counts(node.get("counts"), trace)
    return Answer(node.get("text").words(), tokens, times, counts, trace)


def _times(node: Node) -> Times:
    fixed = {name: node.get(name).number(0, _MOST_MS) for name in ("vision", "prefill", "total")}
    first = node.get("first_token").number(1e-9, _MOST_MS)
    token = node.find("per_token")
    rounds, whole = node.find("rounds"), node.find("whole")
    firsts = node.find("first_tokens")
    return Times(
        **fixed,
        first_token=first,
        per_token=None if token is None else token.number(0, _MOST_MS),
        rounds=0 if rounds is None else rounds.whole(0, 1000),
        first_tokens=() if firsts is None else tuple(firsts.numbers(0, _MOST_MS, 1000)),
        whole=False if whole is None else whole.flag(),
    )


def _counts(node: Node, trace: PruningTrace) -> Counts:
    executed, per_layer = node.get("executed"), node.get("executed_per_layer")
    layers = len(trace.layers)
    peak = node.find("peak_bytes")
    found = Counts(
        ExecutedFlops(
            executed.get("prefill").whole(1),
            executed.get("probe").whole(),
            executed.get("decode").whole(),
        ),
        [one.whole() for one in per_layer.each(layers)],
        node.get("vision").whole(),
        node.get("paper_macs").whole(),
        node.get("attention_paper").number(0, 1e6),
        node.get("attention_executed").number(0, 1e6),
        node.get("kv_bytes").whole(),
        None if peak is None else peak.whole(),
        _dense(node, trace),
    )
    same_length(found.executed_per_layer, range(layers), per_layer)
    return found


def _dense(node: Node, trace: PruningTrace) -> int:
    """What a run with a schedule of the model's own is compared with; older files lack it."""
    if trace.trained:
        return node.get("dense").whole(1)
    dense = node.find("dense")
    return 0 if dense is None else dense.whole()


def _check_together(node: Node, answers: Sequence[Answer]):
    """Refuse answers that cannot be compared: of several prompts, or with unequal clocks."""
    first = answers[0]
    for one, answer in zip(node.get("answers").each(MOST_SIDES), answers, strict=True):
        _check_same_prompt(one, answer.trace, first.trace)
        if len(answer.times.first_tokens) != len(first.times.first_tokens):
            raise one.get("times").refuse("of as many rounds as the first answer's")


def _check_same_prompt(node: Node, trace: PruningTrace, first: PruningTrace):
    facts = [
        (t.length, t.spans, t.grids, len(t.layers), t.trained and t.trained.settings)
        for t in (trace, first)
    ]
    if facts[0] != facts[1]:
        raise Refused(f"This saved run is damaged: {node.place} is of another prompt or model.")
