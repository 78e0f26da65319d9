"""Attention by plan, and one query's attention row; any backend, no N x N weights.

A plan says, span of queries by span of queries, which keys are scored and whose values are zeroed
or replaced. Zeroing a weight after softmax is attention with that key's value zeroed; merging
weights into one token is attention with the values replaced by that token's. So each span is one
ordinary scaled_dot_product_attention.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.models.llama.modeling_llama import rotate_half

from visipruner.layout import Range

PLANNED = "visipruner_plan"  # the name under which transformers finds `planned_attention`


@dataclass(frozen=True)
class Span:
    """Queries that share a rule. All ranges index the rows that the layer computes.

    A key is visible to a query when it is among `keys` and not later than the query.
    """

    queries: tuple[Range, ...]
    keys: tuple[Range, ...]
    zeroed: tuple[Range, ...] = ()  # scored, but their values count as nothing
    merged: tuple[Range, ...] = ()  # scored, but their values are that of row `merge_into`
    merge_into: int = 0

    @property
    def scored_pairs(self) -> int:
        """Pairs as a full rectangle: what a kernel without causal skipping computes."""
        return size(self.queries) * size(self.keys)


Plan = tuple[Span, ...]


def size(ranges: tuple[Range, ...]) -> int:
    return sum(stop - start for start, stop in ranges)


def rows_of(ranges: tuple[Range, ...], device) -> Tensor:
    """The row numbers in `ranges`, one after the other."""
    return torch.cat([torch.arange(start, stop, device=device) for start, stop in ranges])


def visible_visual_pairs(plan: Plan, visual: tuple[Range, ...]) -> int:
    """Causal query-key pairs of the plan with a member among the `visual` rows."""
    total = 0
    for span in plan:
        queries, keys = overlap(span.queries, visual), overlap(span.keys, visual)
        one_or_other = causal_pairs(queries, span.keys) + causal_pairs(span.queries, keys)
        total += one_or_other - causal_pairs(queries, keys)
    return total


def overlap(ranges: tuple[Range, ...], others: tuple[Range, ...]) -> tuple[Range, ...]:
    """The rows that are in both."""
    both = ((max(a, c), min(b, d)) for a, b in ranges for c, d in others)
    return tuple((start, stop) for start, stop in both if start < stop)


def causal_pairs(queries: tuple[Range, ...], keys: tuple[Range, ...]) -> int:
    """Pairs of a query and a key that is not later."""
    total = 0
    for start, stop in queries:
        for first, end in keys:
            # Queries among the keys see one key more each, those after them see all.
            low, high = max(start, first), min(stop, end)
            if low < high:
                total += (low - first + 1 + high - first) * (high - low) // 2
            total += max(0, stop - max(start, end)) * (end - first)
    return total


def clipped(plan: Plan, rows: int) -> Plan:
    """What is left of a plan when only the first `rows` rows count."""

    def cut(ranges):
        return tuple((start, min(stop, rows)) for start, stop in ranges if start < rows)

    parts = (
        Span(cut(s.queries), cut(s.keys), cut(s.zeroed), cut(s.merged), s.merge_into) for s in plan
    )
    return tuple(span for span in parts if span.queries)


def planned_attention(
    module, query, key, value, attention_mask, scaling, attention_plan: Plan = (), **kwargs
) -> tuple[Tensor, None]:
    """Attention function in transformers' sense. The plan carries causality; the mask is not read.

    Args:
        query: (1, heads, rows, head width); key and value: (1, kv heads, rows, head width).

    Returns:
        (1, rows, heads, head width), and None in place of weights.
    """
    groups = query.shape[1] // key.shape[1]
    output = torch.empty_like(query)
    for span in attention_plan:
        span_key, span_value = _take(key, span.keys), _values(value, span)
        if groups > 1:
            span_key = span_key.repeat_interleave(groups, dim=1)
            span_value = span_value.repeat_interleave(groups, dim=1)
        result = scaled_dot_product_attention(
            _take(query, span.queries),
            span_key,
            span_value,
            scale=scaling,
            **causality(span, query.device),
        )
        done = 0
        for start, stop in span.queries:
            output[:, :, start:stop] = result[:, :, done : done + stop - start]
            done += stop - start
    return output.transpose(1, 2), None


# transformers' public door for attention functions. Only layers whose config names PLANNED use it;
# masks are still made by the model's own backend, whose name stays in the model's config.
AttentionInterface.register(PLANNED, planned_attention)


def by_plan(config):
    """A copy of an attention module's config that makes it run by plan."""
    config = copy.copy(config)
    config._attn_implementation = PLANNED
    return config


def _take(states: Tensor, ranges: tuple[Range, ...]) -> Tensor:
    if len(ranges) == 1:
        return states[:, :, slice(*ranges[0])]
    return torch.cat([states[:, :, start:stop] for start, stop in ranges], dim=2)


def _values(value: Tensor, span: Span) -> Tensor:
    if span.zeroed or span.merged:
        carrier = value[:, :, span.merge_into : span.merge_into + 1].clone()
        value = value.clone()
        for start, stop in span.zeroed:
            value[:, :, start:stop].zero_()
        for start, stop in span.merged:
            value[:, :, start:stop] = carrier
    return _take(value, span.keys)


def causality(span: Span, device) -> dict:
    """How sdpa is told who sees whom: a mask only where nothing cheaper says the same."""
    if span.queries == span.keys:
        return {"is_causal": True}
    if span.keys[-1][1] <= span.queries[0][0] + 1:  # no key is later than the first query
        return {}
    mask = rows_of(span.queries, device)[:, None] >= rows_of(span.keys, device)[None, :]
    return {"attn_mask": mask}


def rotation(position_embeddings: tuple[Tensor, Tensor]) -> Tensor:
    """The rotary embedding of the last position as a matrix: `query @ matrix` is the query rotated.

    Args:
        position_embeddings: cosine and sine, (1, rows, head width).

    Returns:
        (head width, head width) in float32.
    """
    cos, sin = (part[0, -1].float() for part in position_embeddings)
    units = torch.eye(len(cos), device=cos.device)
    return units * cos + rotate_half(units) * sin


def attention_row(
    attention, hidden: Tensor, turn: Tensor, key: Tensor, visible: Tensor | None = None
) -> Tensor:
    """Softmax weights of the last token over all keys, in float32, whatever the backend.

    Args:
        attention: a Llama-like attention module; `q_proj` is called, never read (it may be 4-bit).
        hidden: (1, rows, width), the module's input; the last row is read.
        turn: (head width, head width) float32: what `rotation` gives for the last row.
        key: (1, kv heads, rows, head width), rotated, from the cache.
        visible: (rows,) bool: keys that count. None: all.

    Returns:
        (heads, rows).
    """
    _, kv_heads, _, head_width = key.shape
    query = attention.q_proj(hidden[:, -1]).view(-1, head_width).float()
    query = torch.mm(query, turn).mul_(attention.scaling).view(kv_heads, -1, head_width)
    scores = torch.bmm(query, key[0].float().mT)  # (kv heads, group, rows)
    if visible is not None:
        scores = scores.masked_fill(~visible, float("-inf"))
    return scores.softmax(-1).flatten(0, 1)


def influence(weights: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The influence test: what the last token's attention output loses without each key.

    O is the concatenation over heads of the weighted values, before o_proj; O'_j is O with key j's
    weight set to zero and nothing renormalised. All in float32. Source: arXiv 2510.17205.

    Args:
        weights: (heads, keys); value: (1, kv heads, keys, head width).

    Returns:
        cosine(O, O'_j) and ||O - O'_j||_2, each (keys,), and ||O||_2, a scalar.
    """
    value = value[0].float()
    grouped = weights.view(value.shape[0], -1, value.shape[1])  # (kv heads, group, keys)
    output = torch.bmm(grouped, value)  # (kv heads, group, head width)
    # With P_j = O - O'_j, products of O and P_j give both; no O'_j is ever made.
    dot = torch.bmm(output, value.mT).mul_(grouped).sum((0, 1))  # O * P_j
    lengths = torch.linalg.vector_norm(value, dim=-1)[:, None]  # (kv heads, 1, keys)
    square = (grouped * lengths).square_().sum((0, 1))  # ||P_j||^2
    output = output.view(-1)
    whole = torch.dot(output, output)
    stays = whole - dot  # O * O'_j
    # Where one key is all of O, rounding is all of O'_j: no cosine near 1 may come of it.
    rest = (stays - dot).add_(square).clamp_min_(1e-12 * whole)  # ||O'_j||^2
    return stays.div_(rest.mul_(whole).sqrt_()), square.sqrt_(), whole.sqrt()
