"""Watched attention, attention by plan, and single attention rows; no N x N weights.

For each span of queries, a plan says which keys are scored and whose values are zeroed or replaced.
Zeroing a weight after softmax equals zeroing that key's value. Merging weights into one token
equals replacing the merged values by that token's value. So each span is one ordinary
scaled_dot_product_attention.
"""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from visipruner.errors import Refused
from visipruner.layout import Range
from visipruner.stock import AttentionInterface, OtherAttention, attention_backend, run_layer

# Names in transformers' registry of `watched_attention` and `planned_attention`.
WATCHED, PLANNED = "visipruner_watch", "visipruner_plan"


@dataclass(frozen=True)
class Span:
    """Queries that share a rule. All ranges index the rows that the layer computes.

    A key is visible to a query when it is among `keys` and not later than the query.
    """

    queries: tuple[Range, ...]
    keys: tuple[Range, ...]
    zeroed: tuple[Range, ...] = ()  # scored, but with value 0
    merged: tuple[Range, ...] = ()  # scored, but with the value of row `merge_into`
    merge_into: int = 0

    @property
    def scored_pairs(self) -> int:
        """Query-key pairs, as a kernel without causal skipping computes them."""
        return size(self.queries) * size(self.keys)


Plan = tuple[Span, ...]


def size(ranges: tuple[Range, ...]) -> int:
    return sum(stop - start for start, stop in ranges)


def rows_of(ranges: tuple[Range, ...], device) -> Tensor:
    """The row numbers in `ranges`, one after the other."""
    return torch.cat([torch.arange(start, stop, device=device) for start, stop in ranges])


def visible_visual_pairs(plan: Plan, visual: tuple[Range, ...]) -> int:
    """Causal query-key pairs of the plan in which the query or the key is in `visual`."""
    total = 0
    for span in plan:
        queries, keys = overlap(span.queries, visual), overlap(span.keys, visual)
        one_or_other = causal_pairs(queries, span.keys) + causal_pairs(span.queries, keys)
        total += one_or_other - causal_pairs(queries, keys)
    return total


def is_for_rows(plan: Plan, rows: int) -> bool:
    """Do the queries cover rows 0..rows-1 exactly once, and is every key among these rows?"""
    end = 0
    for start, stop in sorted(part for span in plan for part in span.queries):
        if start != end:
            return False
        end = stop
    named = [part for span in plan for part in (*span.keys, *span.zeroed, *span.merged)]
    named += [(span.merge_into, span.merge_into + 1) for span in plan if span.merged]
    return end == rows and all(0 <= start < stop <= rows for start, stop in named)


def overlap(ranges: tuple[Range, ...], others: tuple[Range, ...]) -> tuple[Range, ...]:
    """The rows in both."""
    both = ((max(a, c), min(b, d)) for a, b in ranges for c, d in others)
    return tuple((start, stop) for start, stop in both if start < stop)


def causal_pairs(queries: tuple[Range, ...], keys: tuple[Range, ...]) -> int:
    """Count the pairs of a query and a key that is not later."""
    total = 0
    for start, stop in queries:
        for first, end in keys:
            # Inside the key range, each query sees one key more than the last; after it, all.
            low, high = max(start, first), min(stop, end)
            if low < high:
                total += (low - first + 1 + high - first) * (high - low) // 2
            total += max(0, stop - max(start, end)) * (end - first)
    return total


def clipped(plan: Plan, rows: int) -> Plan:
    """The plan for the first `rows` rows alone."""

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
        (1, rows, heads, head width), and None instead of weights.
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


class Watch:
    """Notes queries in one run of one attention module, with a plan or without.

    The module's config names our attention function until the module asks for it. The model's
    config keeps its own backend's name, so that backend still makes the masks.

    Args:
        attention: a module that calls transformers' attention functions. Pass it this watch as the
            keyword argument `attention_watch`.
        plan: None: as the model would run.
        last: (1,) long on the module's device: the row whose query is noted. None: the last.
        query_rows: (n,) long on the CPU: further rows whose queries are noted. None: no others.
        keep_key: note the keys too, for attention that caches none.
        stop: raise `AttentionReached` when the module asks for its attention function.
    """

    def __init__(
        self,
        attention: nn.Module,
        plan: Plan | None = None,
        last: Tensor | None = None,
        query_rows: Tensor | None = None,
        stop: bool = False,
        keep_key: bool = False,
    ):
        self.attention, self.plan, self.last = attention, plan, last
        self.query_rows, self.stop, self.keep_key = query_rows, stop, keep_key
        # (1, heads, head width), as the model scores it: rotated, and normalised where the model
        # does so. None: attention did not run, or did not use transformers' functions.
        self.query: Tensor | None = None
        self.queries: Tensor | None = None  # (1, heads, n, head width) of `query_rows`
        self.key: Tensor | None = None  # (1, kv heads, rows, head width), if `keep_key`
        self.scaling = 1.0
        self.own_config = attention.config
        self._set(OtherAttention(self.own_config, WATCHED))

    def end(self):
        """Give the module its config back. Calling it again does no harm."""
        self._set(self.own_config)

    def _set(self, config):
        # nn.Module's own __setattr__ looks for tensors first, which takes longer than the rest.
        object.__setattr__(self.attention, "config", config)

    def only(self, rows: Tensor | None) -> Noted:
        """What one of several readers asked for; `query_rows` must ascend.

        Args:
            rows: (n,) some of `query_rows`. None: only the last row.
        """
        if rows is None:
            return Noted(self.query, self.scaling)
        index = torch.searchsorted(self.query_rows, rows).to(self.queries.device)
        return Noted(self.query, self.scaling, self.queries.index_select(2, index), rows)

    def note(self, query: Tensor, scaling: float | None):
        """query: (1, heads, rows, head width)."""
        # A copy: a view would keep all rows in memory while the layer goes on.
        if self.last is None:
            self.query = query.select(2, -1).clone()
        else:
            self.query = query.index_select(2, self.last).squeeze(2)
        if self.query_rows is not None:
            self.queries = query.index_select(2, self.query_rows.to(query.device))
        self.scaling = query.shape[-1] ** -0.5 if scaling is None else scaling


@dataclass(frozen=True)
class Noted:
    """What a `Watch` noted, for one of several readers; the fields are those of `Watch`."""

    query: Tensor
    scaling: float
    queries: Tensor | None = None
    query_rows: Tensor | None = None


class AttentionReached(Exception):
    """Stops a layer when it asks for its attention function; `key`: the keys it would score."""

    def __init__(self, key: Tensor):
        super().__init__("The layer was only started to see its query and keys.")
        self.key = key


def peek(layer: nn.Module, hidden: Tensor, turns) -> tuple[Tensor, float, Tensor]:
    """Query and keys that a decoder layer would score on `hidden`; computes only the projections.

    Args:
        hidden: (1, rows, width); turns: cosines and sines of the rows' places.

    Returns:
        The last row's query (1, heads, head width), the scaling, keys (1, kv heads, rows, head
        width).
    """
    watch = Watch(layer.self_attn, stop=True)
    try:
        run_layer(layer, hidden, turns, None, attention_watch=watch)
    except AttentionReached as reached:
        return watch.query, watch.scaling, reached.key
    finally:
        watch.end()
    raise ValueError("The layer did not ask for its attention function.")


FUNCTIONS = AttentionInterface()  # all registered functions
# transformers' arguments that make weights other than the softmax of scaled products.
NOT_PLAIN = ("softcap", "s_aux", "position_bias", "sliding_window")


def watched_attention(
    module, query, key, value, attention_mask, attention_watch=None, scaling=None, **kwargs
) -> tuple[Tensor, Tensor | None]:
    """Attention function in transformers' sense: notes queries, then runs the plan or the backend.

    Raises:
        Refused: the weights would not be the softmax of scaled products, or another thread was
            inside the module when the watch began.
    """
    if attention_watch is None:
        raise Refused("This model began to prune the prompt of another thread: ask it again later.")
    attention_watch.end()
    for name in NOT_PLAIN:
        if kwargs.get(name) is not None:
            raise Refused(f"Attention with {name} cannot be pruned exactly.")
    attention_watch.note(query, scaling)
    if attention_watch.keep_key:
        attention_watch.key = key
    if attention_watch.stop:
        raise AttentionReached(key)
    if attention_watch.plan is not None:
        function = FUNCTIONS[PLANNED]
        kwargs = {"attention_plan": attention_watch.plan}
    else:
        own_module = sys.modules[type(module).__module__]
        function = FUNCTIONS.get_interface(
            attention_backend(module), getattr(own_module, "eager_attention_forward", None)
        )
    return function(module, query, key, value, attention_mask, scaling=scaling, **kwargs)


# transformers' public registry of attention functions.
AttentionInterface.register(PLANNED, planned_attention)
AttentionInterface.register(WATCHED, watched_attention)


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
    """Arguments that make sdpa causal: an explicit mask only if nothing cheaper does the same."""
    if span.queries == span.keys:
        return {"is_causal": True}
    if span.keys[-1][1] <= span.queries[0][0] + 1:  # no key is later than the first query
        return {}
    mask = rows_of(span.queries, device)[:, None] >= rows_of(span.keys, device)[None, :]
    return {"attn_mask": mask}


def without_autocast(tensor: Tensor) -> AbstractContextManager:
    """Turn the caller's autocast off, so that products are as exact as their factors."""
    kind = tensor.device.type
    if not torch.is_autocast_enabled(kind):
        return nullcontext()
    return torch.autocast(kind, enabled=False)


def attention_row(
    query: Tensor, scaling: float, key: Tensor, visible: Tensor | None = None
) -> Tensor:
    """Softmax weights of one token over all keys, in float32, whatever the backend.

    Args:
        query: (1, heads, head width), as a `Watch` notes it.
        key: (1, kv heads, rows, head width), as cached.
        visible: (rows,) bool: keys that count. None: all.

    Returns:
        (heads, rows).
    """
    _, kv_heads, _, head_width = key.shape
    query = (query.float() * scaling).view(kv_heads, -1, head_width)
    with without_autocast(key):
        scores = torch.bmm(query, key[0].float().mT)  # (kv heads, group, rows)
    if visible is not None:
        scores = scores.masked_fill(~visible, float("-inf"))
    return scores.softmax(-1).flatten(0, 1)


def attention_rows(queries: Tensor, scaling: float, key: Tensor, rows: Tensor) -> Tensor:
    """Softmax weights of several tokens, each over the keys that are not later than itself.

    Args:
        queries: (1, heads, n, head width); rows: (n,) which rows they are.
        key: (1, kv heads, keys, head width), as cached.

    Returns:
        (heads, n, keys) float32.
    """
    _, kv_heads, keys, head_width = key.shape
    grouped = (queries.float() * scaling).view(kv_heads, -1, head_width)  # group by group, n rows
    with without_autocast(key):
        scores = torch.bmm(grouped, key[0].float().mT).view(-1, len(rows), keys)
    later = torch.arange(keys, device="cpu")[None] > rows[:, None]
    return scores.masked_fill_(later.to(key.device), float("-inf")).softmax(-1)


# If ||P_j|| is within this share of ||O||, O'_j may be too short for the expanded products.
NEAR = 0.1
_NOTHING = torch.finfo(torch.float64).tiny  # keeps 0 / 0 at 0


def influence(weights: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The influence test: what the last token's attention output loses without each key.

    O is the concatenation over heads of the weighted values, before o_proj; O'_j is O with key j's
    weight set to zero and nothing renormalised; P_j = O - O'_j. Source: arXiv 2510.17205.

    Exactness: weights and values are used as given; everything after them is float64. L2 and norm
    have a relative error of about 1e-15. A cosine has an error of about 1e-15 (||O|| / ||O'_j||)^2.
    It is below 1e-12 unless ||P_j|| is within `NEAR` of ||O||; for such keys use `cosines_near`.

    Args:
        weights: (heads, keys); value: (1, kv heads, keys, head width).

    Returns:
        cosine(O, O'_j), in [-1, 1], and ||P_j||_2, each (keys,), and ||O||_2, a scalar; float64, on
        the inputs' device, or on the CPU if that device has no float64.
    """
    value = _double(value[0])
    grouped = _double(weights).view(value.shape[0], -1, value.shape[1])  # (kv heads, group, keys)
    output = torch.bmm(grouped, value)  # (kv heads, group, head width)
    # Products of O and P_j suffice; no O'_j is built.
    dot = torch.bmm(output, value.mT).mul_(grouped).sum((0, 1))  # O * P_j
    lengths = torch.linalg.vector_norm(value, dim=-1)[:, None]  # (kv heads, 1, keys)
    square = (grouped * lengths).square_().sum((0, 1))  # ||P_j||^2
    output = output.view(-1)
    whole = torch.dot(output, output)
    stays = whole - dot  # O * O'_j
    rest = (stays - dot).add_(square)  # ||O'_j||^2
    cos = stays.div_(rest.mul_(whole).clamp_min_(_NOTHING).sqrt_()).clamp_(-1, 1)
    return cos, square.sqrt_(), whole.sqrt()


def as_one(weights: Tensor, value: Tensor) -> Tensor:
    """Weights of several tokens, scaled so that `influence` tests their outputs as one long output.

    Each O_i is first brought to the last one's length, so that no token outweighs another, and
    ||O|| is the last one's too. Of one token the test is the same as without this.

    Args:
        weights: (heads, n, keys), the last token last; value: (1, kv heads, keys, head width).

    Returns:
        (heads * n, keys) float64, in the order of `value`'s heads.
    """
    value = _double(value[0])
    weights = _double(weights)
    heads, count, keys = weights.shape
    output = torch.bmm(weights.reshape(value.shape[0], -1, keys), value)  # (kv heads, group * n, _)
    lengths = output.view(heads, count, -1).square().sum((0, 2)).sqrt_()  # (n,): ||O_i||
    scale = lengths[-1] / (lengths.clamp_min(_NOTHING) * count**0.5)
    return (weights * scale[:, None]).flatten(0, 1)


def cosines_near(weights: Tensor, value: Tensor, keys: Tensor) -> Tensor:
    """cosine(O, O'_j) of `influence` for a few keys j, exact however much of O they carry.

    Nothing is subtracted: O'_j is the sum over all other keys, and O is O'_j + P_j. So the error is
    about 1e-15 even if O'_j is a 10^12th of O. Each key costs as much as computing O once.

    Args:
        weights: (heads, keys); value: (1, kv heads, keys, head width).
        keys: (near,) long.

    Returns:
        (near,) float64 in [-1, 1], on the device of `influence`'s results. 1 if P_j is 0, else 0 if
        O or O'_j is 0.
    """
    value = _double(value[0])
    grouped = _double(weights).view(value.shape[0], -1, value.shape[1])  # (kv heads, group, keys)
    keys, shape = keys.to(value.device), (value.shape[0], len(keys), -1, value.shape[2])
    others = grouped[:, None].repeat(1, len(keys), 1, 1)  # (kv heads, near, group, keys)
    others.scatter_(3, keys[None, :, None, None].expand_as(others[..., :1]), 0)
    # O'_j and P_j: (kv heads, near, group, head width), then (near, heads * head width)
    rest = torch.bmm(others.flatten(1, 2), value).view(shape)
    part = grouped[:, :, keys].mT[..., None] * value[:, keys, None]
    rest, part = (states.transpose(0, 1).flatten(1) for states in (rest, part))
    cos = torch.cosine_similarity(rest + part, rest, dim=1, eps=_NOTHING).clamp_(-1, 1)
    return cos.masked_fill(~part.any(1), 1)


def _double(tensor: Tensor) -> Tensor:
    """In float64; on the CPU if the device has no float64."""
    return tensor.cpu().double() if tensor.device.type == "mps" else tensor.double()
