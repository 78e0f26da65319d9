"""What some models add to a Llama: positions of several dimensions; features between layers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from visipruner.errors import Refused
from visipruner.layout import Rows, TokenLayout
from visipruner.stock import ADDED_FEATURES, ADDED_WHERE

COUNTED_HERE = "prune() counts positions itself: from 0, without a gap."


@dataclass(frozen=True)
class Axes:
    """Positions of several dimensions: time, row and column, as in Qwen-VL.

    Args:
        rows: 3; or 4, if the plain positions come first.
        after: the position of the first decoded token, the same in every dimension.
    """

    rows: int
    after: int

    @classmethod
    def of(cls, places: Tensor, length: int) -> Axes:
        """The dimensions of a prompt's position ids.

        Args:
            places: (3 or 4, 1, length).

        Raises:
            Refused: it has another shape, or plain positions with a gap.
        """
        if places.shape not in ((3, 1, length), (4, 1, length)):
            raise Refused(COUNTED_HERE)
        if len(places) == 4 and places[0].tolist() != [list(range(length))]:
            raise Refused(COUNTED_HERE)
        return cls(len(places), int(places[-3:].max()) + 1)

    def of_step(self, step: int, plain: int, device) -> Tensor:
        """(rows, 1, 1): the position ids of a decoded token.

        Args:
            step: decoded tokens before it; plain: its position without dimensions.
        """
        places = torch.full((self.rows, 1, 1), self.after + step, device=device)
        if self.rows == 4:
            places[0] = plain
        return places


@dataclass(frozen=True)
class Added:
    """Features that a model adds to its visual tokens after the first layers (DeepStack).

    The decoder adds them between its layers by a mask of the whole prompt, which does not fit
    fewer tokens, so they are taken out of its arguments and added here.
    """

    features: tuple[Tensor, ...]  # per layer (visual tokens of the prompt, width)

    @classmethod
    def out_of(cls, arguments: dict, layout: TokenLayout) -> tuple[dict, Added | None]:
        """(the decoder's keyword arguments without the features, the features).

        Raises:
            Refused: they belong to other tokens than the layout's visual ones.
        """
        features, mask = (arguments.get(name) for name in (ADDED_FEATURES, ADDED_WHERE))
        if features is None:
            return arguments, None
        if mask is None or mask.flatten().nonzero().flatten().tolist() != list(layout.visual):
            raise Refused(
                "This model adds features to other tokens than those that the layout calls visual."
            )
        return {**arguments, ADDED_FEATURES: None, ADDED_WHERE: None}, cls(tuple(features))

    def after_more_than(self, layer: int) -> bool:
        """Are features added after a later layer than this one?"""
        return layer + 1 < len(self.features)

    def after(self, layer: int, hidden: Tensor, rows: Rows) -> Tensor:
        """A layer's output (1, rows, width) with the features of the visual tokens that it has."""
        if layer >= len(self.features) or not len(rows.visual):
            return hidden
        visual, patches = rows.visual.to(hidden.device), rows.patches.to(hidden.device)
        features = self.features[layer].to(hidden.device, hidden.dtype)
        hidden = hidden.clone()
        hidden[:, visual] = hidden[:, visual] + features[patches]
        return hidden
