"""The field's baseline, rewritten by us: shallow edits on full matrices in eager attention."""

from __future__ import annotations

from contextlib import contextmanager

import torch
from torch import Tensor

from visipruner.attention import PLANNED, Plan, planned_attention
from visipruner.stock import AttentionInterface, attention_backend


@contextmanager
def full_matrices(model):
    """Inside, `model` computes every attention matrix in full, and plans are edits of weights.

    The published code runs like this: eager attention in every layer, weights changed after
    softmax. Only plans whose spans score every key are edits of weights ("official" semantics).
    """
    before = attention_backend(model)
    model.set_attn_implementation("eager")
    AttentionInterface.register(PLANNED, edited_weights)
    try:
        yield
    finally:
        AttentionInterface.register(PLANNED, planned_attention)
        model.set_attn_implementation(before)


def edited_weights(
    module, query, key, value, attention_mask, scaling, attention_plan: Plan = (), **kwargs
) -> tuple[Tensor, None]:
    """Attention function in transformers' sense: all weights, then the plan's edits, in place.

    Args:
        query: (1, heads, rows, head width); key and value: (1, kv heads, rows, head width).
        attention_mask: (1, 1, rows, rows), additive and causal.
    """
    groups = query.shape[1] // key.shape[1]
    key, value = (part.repeat_interleave(groups, dim=1) for part in (key, value))
    weights = query @ key.transpose(2, 3) * scaling + attention_mask
    weights = weights.softmax(-1, dtype=torch.float32).to(query.dtype)
    for span in attention_plan:
        for rows in (weights[:, :, start:stop] for start, stop in span.queries):
            if span.merged:
                total = sum(rows[..., a:b].sum(-1) for a, b in span.merged)
            for start, stop in (*span.zeroed, *span.merged):
                rows[..., start:stop] = 0
            if span.merged:
                rows[..., span.merge_into] = total
    return (weights @ value).transpose(1, 2).contiguous(), None
