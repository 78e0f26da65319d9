"""Carries out selections: which rows go on, at which places, and which token carries a patch."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from visipruner.layout import NO_PATCH, Rows, TokenLayout
from visipruner.trace import NOBODY, Selection

MADE = -1  # instead of a row: a token that the method made


@dataclass(frozen=True)
class Carried:
    """The result of a selection on the rows of a layer."""

    rows: Rows  # the rows that go on
    index: Tensor  # (kept,) the old row of each, or MADE
    changed: bool  # tokens were dropped, made, moved or renumbered


def carry_out(selection: Selection, rows: Rows, layout: TokenLayout, name: str) -> Carried:
    """The rows that a selection leaves.

    Raises:
        ValueError: the method named absent tokens, a token twice, or an impossible order.
    """
    keep = torch.tensor(selection.keep, dtype=torch.long, device="cpu")
    index, made, moved = _in_order(keep, rows) or _in_any_order(selection, keep, rows, layout, name)
    if not len(keep) or index[-1] != len(rows) - 1:
        raise ValueError(f"{name} must keep the last prompt token, and last: it answers.")
    if made:
        left = _with_made(keep, index, rows)
    else:
        left = rows.only(index) if moved or len(index) < len(rows) else rows
    if selection.compact and (moved or int(left.place[-1]) != len(left) - 1):
        left = left.renumbered()
    return Carried(left, index, left is not rows)


def _in_order(keep: Tensor, rows: Rows) -> tuple[Tensor, bool, bool] | None:
    """(`index`, False, False) if tokens are only dropped; None: `_in_any_order` must check.

    Most selections keep some of the ascending tokens in order. This check for them is quick.
    """
    if not rows.ascending or not len(keep) or not bool((keep[1:] > keep[:-1]).all()):
        return None
    index = torch.searchsorted(rows.tokens, keep)
    there = int(index[-1]) < len(rows) and torch.equal(rows.tokens[index], keep)
    return (index, False, False) if there else None


def _in_any_order(selection, keep: Tensor, rows: Rows, layout, name) -> tuple[Tensor, bool, bool]:
    """`index`, whether tokens were made, and whether any moved."""
    free = max(layout.length, int(rows.tokens.max()) + 1)
    index = _rows_of(keep, rows, free)
    is_made = index == MADE
    old, made = index[~is_made], keep[is_made]
    if (made < free).any() or len(keep.unique()) != len(keep):
        raise ValueError(f"{name} must name tokens that are still there, once each.")
    if len(made) and (selection.hidden is None or not selection.compact):
        raise ValueError(f"{name} made tokens without their states, or without renumbering.")
    moved = bool((old[1:] < old[:-1]).any())
    text = index[rows.is_text[index] & ~is_made]
    if (moved and not selection.compact) or (text[1:] < text[:-1]).any():
        raise ValueError(f"{name} must keep the order of text, and of all unless it renumbers.")
    return index, bool(len(made)), moved


def _rows_of(tokens: Tensor, rows: Rows, free: int) -> Tensor:
    """The row of each token; MADE: no row holds it."""
    size = max(free, int(tokens.max()) + 1) if len(tokens) else free
    table = torch.full((size,), MADE, device="cpu")
    table[rows.tokens] = torch.arange(len(rows), device="cpu")
    return table[tokens]


def _with_made(tokens: Tensor, index: Tensor, rows: Rows) -> Rows:
    patch = torch.where(index == MADE, NO_PATCH, rows.patch[index])
    return Rows(tokens, patch, torch.arange(len(tokens), device="cpu"))


class Owners:
    """Tracks which token carries each patch through all cuts of a run."""

    def __init__(self, whole: Rows):
        """whole: the rows of the whole prompt."""
        self.owner = whole.visual  # a row of the whole prompt is a token id

    def follow(self, selection: Selection, rows: Rows) -> list[int]:
        """Apply a cut that leaves `rows`; per patch the id of its token, or NOBODY."""
        highest = max(int(rows.tokens.max()), int(self.owner.max()) if len(self.owner) else 0)
        highest = max(highest, *selection.into, *selection.into.values(), 0)
        stays = torch.zeros(highest + 2, dtype=torch.bool, device="cpu")  # NOBODY indexes the last
        stays[rows.tokens] = True
        if selection.into:
            target = torch.arange(highest + 2, device="cpu")
            target[-1] = NOBODY
            gone, carriers = zip(*selection.into.items(), strict=True)
            target[list(gone)] = torch.tensor(carriers, device="cpu")
            self.owner = target[self.owner]
        self.owner = torch.where(stays[self.owner], self.owner, NOBODY)
        return self.owner.tolist()

    def enter(self, waiting: Waiting) -> list[int]:
        """Restore the patches of tokens that came back; per patch the id of its token."""
        back = torch.isin(waiting.owner, waiting.rows.tokens)
        self.owner = torch.where(back, waiting.owner, self.owner)
        return self.owner.tolist()


def both(first: Carried, second: Selection, before: Rows) -> Selection:
    """Adapt a second selection, made on the same rows, to the result of the first.

    Tokens that the first made go on; tokens that it dropped stay dropped.

    Args:
        before: the rows that both selections saw.
    """
    now = first.rows.tokens.tolist()
    if second.hidden is None:
        wanted, known = set(second.keep), set(before.tokens.tolist())
        return replace(second, keep=tuple(t for t in now if t in wanted or t not in known))
    present = set(now)
    rows = [row for row, token in enumerate(second.keep) if token in present]
    keep = tuple(second.keep[row] for row in rows)
    return replace(second, keep=keep, hidden=second.hidden[:, rows])


@dataclass(frozen=True)
class Waiting:
    """Tokens that left and will come back, with their states."""

    rows: Rows
    hidden: Tensor  # (1, waiting, width)
    owner: Tensor  # (patches,) before they left
    member: object  # the engine's record of the method that sent them out

    @classmethod
    def left_by(
        cls, carried: Carried, rows: Rows, hidden: Tensor, owner: Tensor, member
    ) -> Waiting:
        outside = torch.ones(len(rows), dtype=torch.bool, device="cpu")
        outside[carried.index[carried.index != MADE]] = False
        gone = outside.nonzero().flatten()
        return cls(rows.only(gone), hidden.index_select(1, gone.to(hidden.device)), owner, member)

    def enter(self, rows: Rows, hidden: Tensor) -> tuple[Rows, Tensor]:
        """Rows and states of all tokens, sorted by place.

        Args:
            rows, hidden: the tokens that are in the model now.
        """
        columns = ("tokens", "patch", "place")
        parts = [torch.cat([getattr(rows, c), getattr(self.rows, c)]) for c in columns]
        order = parts[2].argsort()
        states = torch.cat([hidden, self.hidden.to(hidden.device)], dim=1)
        joined = Rows(*(part[order] for part in parts))
        return joined, states.index_select(1, order.to(hidden.device))
