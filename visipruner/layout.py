"""Where a prompt's system, visual and question tokens lie. The only place that finds `<image>`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from visipruner.errors import Refused

Range = tuple[int, int]  # first, last + 1


def to_ranges(indices: Iterable[int]) -> tuple[Range, ...]:
    """Ascending indices as the fewest half-open ranges: [3, 4, 5, 9] -> ((3, 6), (9, 10))."""
    indices = list(indices)
    if indices and indices[-1] - indices[0] == len(indices) - 1:  # such as one picture's patches
        return ((indices[0], indices[-1] + 1),)
    ranges: list[list[int]] = []
    for index in indices:
        if ranges and ranges[-1][1] == index:
            ranges[-1][1] = index + 1
        else:
            ranges.append([index, index + 1])
    return tuple((start, stop) for start, stop in ranges)


def gaps(ranges: Iterable[Range], length: int) -> tuple[Range, ...]:
    """The ranges of 0..length-1 that these ascending ranges do not cover."""
    left, end = [], 0
    for start, stop in (*ranges, (length, length)):
        if end < start:
            left.append((end, start))
        end = stop
    return tuple(left)


@dataclass(frozen=True)
class TokenLayout:
    """The tokens of one prompt, as the language model sees them.

    A *position* is an index into the whole prompt. A *patch* is an index into its visual tokens, in
    prompt order (row by row for each picture).

    Args:
        length: tokens in the prompt.
        spans: ranges of positions that hold visual tokens, ascending and disjoint.
        grids: (rows, columns) of patches, one per picture; empty: not known.
        ids: the prompt's token ids, which identify it; None: not known.

    Raises:
        Refused: if the spans do not fit the prompt or the grids do not fit the spans.
    """

    length: int
    spans: tuple[Range, ...] = ()
    grids: tuple[tuple[int, int], ...] = ()
    ids: tuple[int, ...] | None = field(default=None, repr=False, compare=False)
    visual: tuple[int, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self):
        end = 0
        for start, stop in self.spans:
            if not end <= start < stop <= self.length:
                raise Refused(
                    f"Visual span {(start, stop)} does not fit a prompt of {self.length} tokens."
                )
            end = stop
        visual = tuple(position for span in self.spans for position in range(*span))
        object.__setattr__(self, "visual", visual)
        patches = sum(rows * columns for rows, columns in self.grids)
        if self.grids and patches != len(visual):
            raise Refused(
                f"The patch grids hold {patches} patches, but the prompt has {len(visual)} "
                "visual tokens."
            )

    @classmethod
    def from_ids(
        cls,
        input_ids: Tensor | Sequence[int],
        image_token_id: int,
        grid: tuple[int, int] | None = None,
    ) -> TokenLayout:
        """Read the layout from token ids with one placeholder per visual token.

        Args:
            input_ids: (tokens,) or (1, tokens), as LlavaProcessor returns them.
            image_token_id: `model.config.image_token_id`.
            grid: patches (rows, columns) of one picture, for drawing.
        """
        ids = torch.as_tensor(input_ids)
        if ids.dim() == 2 and ids.shape[0] != 1:
            raise Refused(f"One prompt at a time: got a batch of {ids.shape[0]}.")
        ids = ids.flatten()
        visual = (ids == image_token_id).nonzero().flatten().tolist()
        grids: tuple[tuple[int, int], ...] = ()
        if grid is not None:
            pictures, rest = divmod(len(visual), grid[0] * grid[1])
            if rest:
                raise Refused(
                    f"{len(visual)} visual tokens are not a whole number of "
                    f"{grid[0]} x {grid[1]} pictures."
                )
            grids = (grid,) * pictures
        return cls(len(ids), to_ranges(visual), grids, tuple(ids.tolist()))

    def with_grids(self, grids: Iterable[tuple[int, int]]) -> TokenLayout:
        """The same prompt, with (rows, columns) of patches for each picture.

        Raises:
            Refused: the grids do not fit the visual tokens.
        """
        return TokenLayout(self.length, self.spans, tuple(grids), self.ids)

    @property
    def num_visual(self) -> int:
        return len(self.visual)


TEXT = -1  # instead of a patch: a row that holds no visual token
NO_PATCH = -2  # instead of a patch: a visual token that is no patch of the prompt, such as CLS


class Rows:
    """The tokens that a layer computes. Every cut makes a new object.

    All tensors are on the CPU, whatever torch's default device.

    Args:
        tokens: (rows,) token ids in row order. An id below the prompt's length is an index into the
            prompt; a method made the tokens with higher ids.
        patch: (rows,) the patch that a row holds, or TEXT or NO_PATCH.
        place: (rows,) ascending: each row's position for the rotary embedding.
    """

    def __init__(self, tokens: Tensor, patch: Tensor, place: Tensor):
        self.tokens, self.patch, self.place = tokens, patch, place
        self.is_text = patch == TEXT
        self.visual = (~self.is_text).nonzero().flatten()  # rows that hold visual tokens
        self.patches = patch.index_select(0, self.visual)  # their patches

    @classmethod
    def of(cls, layout: TokenLayout) -> Rows:
        """The whole prompt."""
        patch, done = torch.full((layout.length,), TEXT, device="cpu"), 0
        for start, stop in layout.spans:
            patch[start:stop] = torch.arange(done, done + stop - start, device="cpu")
            done += stop - start
        tokens = torch.arange(layout.length, device="cpu")
        return cls(tokens, patch, tokens)

    def __len__(self) -> int:
        return len(self.tokens)

    def only(self, rows: Tensor) -> Rows:
        """The given rows alone."""
        columns = self.tokens, self.patch, self.place
        return Rows(*(column.index_select(0, rows) for column in columns))

    def renumbered(self) -> Rows:
        """The same tokens at places 0, 1, 2, ..."""
        return Rows(self.tokens, self.patch, torch.arange(len(self), device="cpu"))

    def padded(self, length: int, first: int) -> Rows:
        """Add text rows up to `length` rows, with token ids and places from `first` on."""
        more = first + torch.arange(length - len(self), device="cpu")
        text = torch.full_like(more, TEXT)
        columns = (self.tokens, more), (self.patch, text), (self.place, more)
        return Rows(*(torch.cat(column) for column in columns))

    @property
    def next_place(self) -> int:
        """The place of the first decoded token: the last prompt token's place + 1."""
        return int(self.place[-1]) + 1

    @cached_property
    def ascending(self) -> bool:
        """Whether the token ids ascend: no method changed their order."""
        return bool((self.tokens[1:] > self.tokens[:-1]).all())

    @cached_property
    def visual_ranges(self) -> tuple[Range, ...]:
        """`visual` as ranges: only a few, because surviving tokens are adjacent after a cut."""
        return to_ranges(self.visual.tolist())

    @cached_property
    def text_ranges(self) -> tuple[Range, ...]:
        """The text rows as ranges."""
        return gaps(self.visual_ranges, len(self))

    @property
    def visual_pairs(self) -> int:
        """Causal query-key pairs with a visual query or key: all pairs but text with text."""
        rows, text = len(self), len(self) - len(self.visual)
        return (rows * (rows + 1) - text * (text + 1)) // 2
