"""The influence test decides as exact arithmetic does, even if one token is all of the output.

These tests compute exactly, in whole numbers, from the same float32 weights and values.
"""

from __future__ import annotations

import math
from fractions import Fraction
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from visipruner import TokenLayout, VisiPruner
from visipruner.attention import attention_row
from visipruner.bench.replay import _Lane, _ReplayView
from visipruner.layout import Rows
from visipruner.trace import LayerRecord, PruningTrace
from visipruner.view import LayerView

HEADS, KV_HEADS, WIDTH = 4, 2, 6
LAYOUT = TokenLayout(20, ((3, 15),))
PADDED = 32  # rows of a replay's buffers
HEAVY = 7  # a visual row
DRIVERS = ["hooks", "replay"]
SHARES = [0.1, 0.5, 0.9, 0.99, 1 - 1e-3, 1 - 1e-4, 1 - 1e-5, 1 - 1e-6, 1 - 1e-7, 1 - 1e-12]


class Exact:
    """Outputs of attention in whole numbers of one unit: no float, no rounding."""

    UNIT = 149  # 2^-149 divides every float32

    def __init__(self, weights: torch.Tensor, value: torch.Tensor):
        """weights: (heads, keys); value: (1, kv heads, keys, head width); both float32."""
        value = value[0].repeat_interleave(len(weights) // value.shape[1], 0)
        parts = self._whole(weights)[..., None] * self._whole(value)
        self.parts = parts.transpose(1, 0, 2).reshape(parts.shape[1], -1)  # (keys, all widths)
        self.output = self.parts.sum(0)

    def _whole(self, tensor: torch.Tensor) -> np.ndarray:
        assert tensor.dtype == torch.float32
        whole = [int(math.ldexp(number, self.UNIT)) for number in tensor.flatten().tolist()]
        return np.array(whole, dtype=object).reshape(tensor.shape)

    def is_below(self, bar: float, key: int) -> bool:
        """cosine(O, O'_key) < bar, for a bar above 0."""
        rest = self.output - self.parts[key]
        inner, bar = self.output @ rest, Fraction(bar)
        return inner < 0 or inner**2 < bar**2 * (self.output @ self.output) * (rest @ rest)

    def cos(self, key: int) -> float:
        rest = self.output - self.parts[key]
        inner, lengths = self.output @ rest, (self.output @ self.output) * (rest @ rest)
        return math.copysign(math.sqrt(Fraction(inner**2, lengths)), inner)

    def l2(self, key: int) -> Fraction:
        """The square of ||P_key||, a whole number of units."""
        return Fraction(self.parts[key] @ self.parts[key], 2 ** (4 * self.UNIT))


def draw(share: float, bar: float, seed: int):
    """One token carries `share` of each head's weight, and its cosine is as near `bar` as possible.

    An even seed puts it below the bar, an odd seed above.

    Returns:
        query, keys, values as a layer has them, in float32.
    """
    noise = partial(torch.randn, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    query, keys = torch.zeros(1, HEADS, WIDTH), torch.zeros(1, KV_HEADS, LAYOUT.length, WIDTH)
    query[..., 0] = 1
    scores = 0.3 * noise(KV_HEADS, LAYOUT.length)
    scores[:, HEAVY] = -math.inf
    scores[:, HEAVY] = math.log(share / (1 - share)) + scores.logsumexp(-1)
    keys[0, :, :, 0] = scores.float()
    row = attention_row(query, 1.0, keys).view(KV_HEADS, -1, LAYOUT.length).double()
    heavy, others = noise(KV_HEADS, 1, WIDTH), noise(KV_HEADS, LAYOUT.length, WIDTH)
    others[:, HEAVY] = 0

    def values(tilt: float):  # the larger, the more the others' sum points where the heavy one does
        value = others + tilt * heavy
        value[:, HEAVY] = 3 * heavy[:, 0]
        return value[None].float()

    part = row[:, :, HEAVY, None] * (3 * heavy).float()
    row[:, :, HEAVY] = 0

    def cosine(tilt: float) -> float:
        rest = row @ values(tilt)[0].double()
        whole, rest = (rest + part).flatten(), rest.flatten()
        return (torch.dot(whole, rest) / whole.norm() / rest.norm()).item()

    low, high = 0.0, 100.0
    for _ in range(36):
        middle = (low + high) / 2
        low, high = (middle, high) if cosine(middle) < bar else (low, middle)
    return query, keys, values((low, high)[seed % 2])


def view_of(query, keys, values, driver="hooks") -> LayerView:
    """A layer with this attention, as a run by hooks or by replay shows it."""
    trace = PruningTrace.begin([], LAYOUT)
    record = LayerRecord(1, LAYOUT.length, LAYOUT.num_visual)
    fields = 1, 4, LAYOUT, Rows.of(LAYOUT), SimpleNamespace(), trace, record
    more = {
        "hidden": torch.zeros(1, LAYOUT.length, 1),
        "watch": SimpleNamespace(query=query, scaling=1.0),
        "cache": SimpleNamespace(keys=keys, values=values),
    }
    if driver == "hooks":
        return LayerView(*fields, **more)
    padding = 0, 0, 0, PADDED - LAYOUT.length
    padded = (torch.nn.functional.pad(states, padding) for states in (keys, values))
    lane = SimpleNamespace(rows=PADDED, last=torch.tensor([LAYOUT.length - 1]))
    return _ReplayView(*fields, **more, test=partial(_Lane._influence, lane, 1.0, query, *padded))


def exact_of(query, keys, values) -> Exact:
    return Exact(attention_row(query, 1.0, keys), values)


@pytest.mark.parametrize("share", SHARES, ids=[f"1 - {1 - share:.0e}" for share in SHARES])
def test_every_decision_is_that_of_exact_arithmetic(share):
    filtering, calm = set(), set()
    for seed in range(4):
        filtering.add(check_filtering(*draw(share, METHOD.layer_threshold, seed)))
        calm.add(check_calm(*draw(share, METHOD.exit_threshold, seed)))
    assert len(filtering) == len(calm) == 2  # draws on both sides of the thresholds


METHOD = VisiPruner(shallow_layers=0)


def check_filtering(*drawn) -> bool:
    exact = exact_of(*drawn)
    influential = any(exact.is_below(METHOD.layer_threshold, key) for key in LAYOUT.visual)
    for driver in DRIVERS:
        view = view_of(*drawn, driver)
        assert (METHOD.select(view) is not None) == influential
        cos = view.record.influence.cos
        assert cos == pytest.approx([exact.cos(key) for key in LAYOUT.visual], abs=1e-12)
        assert all(-1 <= one <= 1 for one in cos)
    return influential


def check_calm(*drawn) -> bool:
    exact = exact_of(*drawn)
    influential = any(exact.is_below(METHOD.exit_threshold, key) for key in LAYOUT.visual)
    for driver in DRIVERS:
        view = view_of(*drawn, driver)
        vars(view.memory).update(
            filtered_at=0, kept=LAYOUT.num_visual, calm=0, calm_layers=[], entered=LAYOUT.num_visual
        )
        METHOD.select(view)
        assert (view.memory.calm == 0) == influential
    return influential


@pytest.mark.parametrize("semantics", ["paper", "official"])
@pytest.mark.parametrize("share", SHARES[1::3])
def test_tokens_are_kept_as_exact_arithmetic_says(share, semantics):
    """Thresholds as near to a token's L2 as floats allow."""
    drawn = draw(share, 0.9, seed=1)
    exact = exact_of(*drawn)
    for key in (HEAVY, HEAVY + 1):
        l2 = math.sqrt(exact.l2(key))
        for bar in (l2 * (1 - 1e-13), l2 * (1 + 1e-13)):
            method = VisiPruner(semantics, shallow_layers=0, tokens_threshold=bar)
            view = view_of(*drawn)
            method.select(view)
            kept = [i for i, key in enumerate(LAYOUT.visual) if exact.l2(key) > Fraction(bar) ** 2]
            assert view.memory.kept == len(kept)
            assert kept == view.record.influence.reaching(bar).tolist()


@pytest.mark.parametrize(("semantics", "kept"), [("paper", [4, 9]), ("official", [9])])
def test_a_token_on_the_threshold_stays_by_the_paper_only(semantics, kept):
    query, keys = torch.zeros(1, HEADS, WIDTH), torch.zeros(1, KV_HEADS, LAYOUT.length, WIDTH)
    keys[:, :, 16:] = -200.0
    query[:] = 1.0  # all of the weight on the first 16 rows, 1/16 each
    values = torch.zeros_like(keys)
    values[0, :, 4, 0], values[0, :, 9, 1], values[0, :, 12, 2] = 4.0, 5.0, 1.0
    view = view_of(query, keys, values)
    method = VisiPruner(semantics, shallow_layers=0, tokens_threshold=0.5)  # 4/16 in four heads
    selection = method.select(view)
    assert view.record.influence.l2[4 - LAYOUT.visual[0]] == 0.5
    assert [position for position in selection.keep if position in LAYOUT.visual] == kept


def test_tokens_without_a_value_change_nothing_and_one_alone_changes_all():
    query, keys, values = draw(0.5, 0.9, seed=0)
    nothing = view_of(query, keys, torch.zeros_like(values)).influence()
    assert set(nothing.cos) == {1.0} and set(nothing.l2) == {0.0}
    alone = torch.zeros_like(values)
    alone[:, :, HEAVY] = values[:, :, HEAVY]
    cos = view_of(query, keys, alone).influence().cos
    assert cos[HEAVY - LAYOUT.visual[0]] == 0
    assert cos.count(1.0) == LAYOUT.num_visual - 1


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("share", [0.1, 1 - 1e-6])
def test_products_of_the_closer_look_are_counted(share, driver):
    view = view_of(*draw(share, 0.9, seed=0), driver)
    with FlopCounterMode(display=False) as counter:
        view.influence()
    if driver == "hooks":  # a replay's products include padding, which the trace leaves out
        assert view.record.probe_flops == counter.get_total_flops()
    row = LAYOUT.length * HEADS * WIDTH
    assert view.record.probe_flops == (6 + 4 * (share > 0.9)) * row


class WithoutFloat64(torch.Tensor):
    """A tensor that claims to lie on an Apple GPU, and refuses what an Apple GPU refuses."""

    device = torch.device("mps")

    def double(self):
        raise TypeError("Cannot convert a MPS Tensor to float64 dtype.")

    def cpu(self):
        return self.as_subclass(torch.Tensor)


@pytest.mark.parametrize("share", [0.5, 1 - 1e-6])
def test_a_device_without_float64_leaves_the_sums_to_the_cpu(share):
    drawn = draw(share, 0.995, seed=0)
    there = view_of(*(states.as_subclass(WithoutFloat64) for states in drawn))
    assert there.influence() == view_of(*drawn).influence()
