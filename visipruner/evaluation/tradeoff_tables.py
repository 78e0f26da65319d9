"""The trade-off curve as tables of text, for assets/tradeoff.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from visipruner.world.scenes import ASSETS

TABLES = ASSETS / "tradeoff.md"


def tables(found: dict, equal: Mapping[float, Mapping[str, float]]) -> str:
    """Every point, accuracy at equal FLOPs, and the agreement between methods.

    Args:
        found: as tradeoff.json holds it.
        equal: share of FLOPs cut -> series -> accuracy there.
    """
    full, agreed = found["unpruned"], found["agreement"]
    parts = [
        "# The trade-off curve of the bundled model",
        f"`python -m visipruner tradeoff --write`, {found['date']}, {found['machine']}: "
        f"{full['questions']} held-out questions a point, the same for all. FLOPs are the language "
        "model's in prefill, as executed. Points against unpruned are paired; brackets hold 95% "
        f"intervals. The last column is the share right among the questions that pooling, as a "
        "smaller picture, gets wrong at the same budget. * scores by the vision tower's class "
        "token, which was never trained in that layer.",
        _points([full, *found["points"]]),
        "## At equal FLOPs",
        "On a straight line between measured points, in % right.",
        _equal(equal),
        "## Agreement",
        f"How much of what two methods keep is the same, at about {agreed['budget']:g} visual "
        f"tokens per layer, mean of {agreed['questions']} questions: the sum over patches of the "
        "lesser share of layers over that of the greater. In brackets what chance would give.",
        _agreement(agreed),
    ]
    return "\n\n".join(parts) + "\n"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _points(points: Sequence[dict]) -> str:
    rows = []
    for point in points:
        mean, low, high = (100 * value for value in point["difference"])
        among = point["where_rival_fails"]
        rows.append(
            [
                point["point"] + ("*" if point["untrained"] else ""),
                f"{point['tokens']:.1f}",
                f"{point['flops_cut']:.1%}",
                f"{point['right']:.1%} ({point['low']:.1%} to {point['high']:.1%})",
                f"{mean:+.1f} ({low:+.1f} to {high:+.1f})" if point["flops_cut"] else "",
                f"{among['right']:.1%} of {among['questions']}" if among else "",
            ]
        )
    head = ["point", "tokens per layer", "FLOPs cut", "right", "points", "where pooling fails"]
    return _table(head, rows)


def _equal(equal: Mapping[float, Mapping[str, float]]) -> str:
    names = sorted(
        {name for found in equal.values() for name in found},
        key=lambda name: -max(found.get(name, 0) for found in equal.values()),
    )
    cells = [
        [name, *(f"{found[name]:.1%}" if name in found else "" for found in equal.values())]
        for name in names
        if name != "none"
    ]
    return _table(["", *(f"{cut:.0%} cut" for cut in equal)], cells)


def _agreement(agreed: dict) -> str:
    sides, rows = agreed["sides"], []
    for number, (name, tokens) in enumerate(zip(sides, agreed["tokens"], strict=True)):
        pairs = zip(agreed["overlap"][number], agreed["chance"][number], strict=True)
        cells = [
            "" if other == number else f"{overlap:.2f} ({chance:.2f})"
            for other, (overlap, chance) in enumerate(pairs)
        ]
        rows.append([f"{name}, {tokens:g} tokens", *cells])
    return _table(["", *sides], rows)
