"""Numbers as the page, the report and the command show them: three digits and a unit."""

from __future__ import annotations

NOTHING = "–"  # shown in place of a missing number


def count(number: float) -> str:
    """1234567 -> 1.23 M: three digits and a letter."""
    for size, letter in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(number) >= 0.9995 * size:  # 999.6 k rounds to 1 M
            return f"{number / size:.3g}{letter}"
    return f"{number:.3g}"


def amount(number: float, unit: str) -> str:
    """2_630_000_000, "FLOP" -> 2.63 GFLOP."""
    value, _, letter = count(number).partition(" ")
    return f"{value} {letter}{unit}"


def flops(number: float) -> str:
    return amount(number, "FLOP")


def in_bytes(number: float) -> str:
    """2_630_000 -> 2.63 MB."""
    return amount(number, "B")


def duration(milliseconds: float | None) -> str:
    if milliseconds is None:
        return NOTHING
    if milliseconds >= 1000:
        return f"{milliseconds / 1000:.2f} s"
    return f"{milliseconds:.0f} ms" if milliseconds >= 10 else f"{milliseconds:.1f} ms"


def times(ratio: float) -> str:
    return f"{ratio:.1f}×" if ratio < 10 else f"{ratio:.0f}×"


def unbroken(value: str) -> str:
    """Keep a number and its unit on one line."""
    return value.replace(" ", "\N{NO-BREAK SPACE}")
