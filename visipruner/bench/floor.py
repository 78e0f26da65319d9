"""Lower bounds of a run's time: matrix products alone, and stock layers alone."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from visipruner.attention import Plan, causality, size
from visipruner.bench.replay import Recorder, can_capture
from visipruner.bench.timing import samples
from visipruner.decoders import decoder_of
from visipruner.stock import DynamicCache, run_layer
from visipruner.trace import PruningTrace


def prefill_floor(model, trace: PruningTrace, plans: dict[int, Plan]) -> Callable[[], object]:
    """A function that runs only the unavoidable products of a prefill, at the trace's token counts.

    Per layer: the seven projections on the rows that the layer computed, and attention (one call
    per span of the method's plan, else one causal call). Last: lm_head on one row. Every input is
    ready. No norms, no rotation, no activation, no copies, no cache, no test. On a GPU it is
    recorded once as a CUDA graph and replayed, so that launches cost nothing; not in 4 bits.

    Args:
        plans: the attention plans that ran, by layer.
    """
    layers, head = model.get_decoder().layers, model.get_output_embeddings()
    inputs: dict = {}  # shared by all layers of the same tokens and plan, to save memory
    steps = []
    for layer, record in zip(layers, trace.layers, strict=True):
        shape = (record.tokens, plans.get(record.layer))
        if shape not in inputs:
            inputs[shape] = _Inputs(layer, head.weight.dtype, *shape)
        steps.append((layer, inputs[shape]))
    last = steps[-1][1].rows[:, :1]

    def run():
        for layer, given in steps:
            _layer(layer, given)
        head(last)

    if not can_capture(model):
        return run
    replay, _ = Recorder(model.device).record(run)

    def replayed():
        replay()
        return steps  # the graph reads them: they must live as long as the graph

    return replayed


class _Inputs:
    """Random inputs of a layer's products, with the real shapes and memory layout."""

    def __init__(self, layer, dtype, tokens: int, plan: Plan | None):
        attention, mlp = layer.self_attn, layer.mlp
        device = attention.q_proj.weight.device

        def random(*shape):
            return torch.randn(shape, dtype=dtype, device=device)

        def heads_of(projection, rows: int):
            # (1, heads, rows, head width), the view of a projection's output that attention gets.
            heads = projection.out_features // attention.head_dim
            return random(1, rows, heads, attention.head_dim).transpose(1, 2)

        self.rows = random(1, tokens, attention.q_proj.in_features)
        self.attended = random(1, tokens, attention.o_proj.in_features)
        self.inner = random(1, tokens, mlp.down_proj.in_features)
        self.scaling = attention.scaling
        self.calls = []  # (query, key, value, causality arguments)
        if plan is None:
            parts = [
                heads_of(p, tokens) for p in (attention.q_proj, attention.k_proj, attention.v_proj)
            ]
            grouped = parts[0].shape[1] != parts[1].shape[1]
            self.calls.append((*parts, {"is_causal": True, "enable_gqa": grouped}))
        for span in plan or ():
            # Keys are repeated for their groups beforehand, as with a plan.
            query = heads_of(attention.q_proj, size(span.queries))
            key, value = (heads_of(attention.q_proj, size(span.keys)) for _ in range(2))
            self.calls.append((query, key, value, causality(span, device)))


def _layer(layer, given: _Inputs):
    attention, mlp = layer.self_attn, layer.mlp
    for projection in (attention.q_proj, attention.k_proj, attention.v_proj):
        projection(given.rows)
    for query, key, value, how in given.calls:
        F.scaled_dot_product_attention(query, key, value, scale=given.scaling, **how)
    attention.o_proj(given.attended)
    mlp.gate_proj(given.rows)
    mlp.up_proj(given.rows)
    mlp.down_proj(given.inner)


def stock_layers(model, trace: PruningTrace, embeds: Tensor) -> Callable[[], Tensor]:
    """A function that runs the model's own layers at the trace's token counts; returns the logits.

    No test, no plan, no hook and no choice: the last rows go on, and the rows before them enter
    where there are more tokens again. So it shows the most that these token counts can gain with
    stock layers.

    Args:
        embeds: (1, tokens, width) of the prompt.
    """
    decoder, head = decoder_of(model), model.get_output_embeddings()
    places = torch.arange(embeds.shape[1], device=embeds.device)[None]

    def run():
        hidden, cache = embeds, DynamicCache(config=decoder.config)
        everywhere = turns = decoder.rotary_emb(hidden, places)
        for layer, record in zip(decoder.layers, trace.layers, strict=True):
            if record.tokens != hidden.shape[1]:
                entering = embeds[:, -record.tokens : -hidden.shape[1]]  # empty where some leave
                hidden = torch.cat([entering, hidden[:, -record.tokens :]], dim=1)
                turns = tuple(part[:, -record.tokens :] for part in everywhere)
            hidden = run_layer(layer, hidden, turns, cache)
        return head(decoder.norm(hidden[:, -1:]))

    return run


def roofline(device: str, dtype: torch.dtype, side: int | None = None, repeats: int = 5) -> dict:
    """The largest measured matmul rate (FLOP/s) and copy rate (bytes/s): the roofline."""
    # On a GPU, large enough that launches take a negligible part of the time.
    side = side or (2048 if device == "cpu" else 8192)
    square = torch.randn(side, side, device=device, dtype=dtype)
    large = torch.empty(2**25 if device == "cpu" else 2**29, device=device, dtype=dtype)
    matmul = min(samples(lambda: square @ square, device, repeats))
    copy = min(samples(large.clone, device, repeats))
    return {
        "matmul_flops_per_second": 2 * side**3 / matmul,
        "copy_bytes_per_second": 2 * large.numel() * large.element_size() / copy,
    }
