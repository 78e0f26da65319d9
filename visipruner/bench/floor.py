"""How fast the hardware could be: the same matrix products and attention, and nothing else."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from visipruner.attention import Plan, planned_attention
from visipruner.bench.timing import samples
from visipruner.trace import PruningTrace


def prefill_floor(model, trace: PruningTrace, plans: dict[int, Plan]) -> Callable[[], object]:
    """A function that runs what a prefill cannot do without, at the token counts of `trace`.

    Per layer the seven projections on as many rows as the layer computed, and attention: by plan
    where the method had one, else one causal call. No norms, no rotation, no cache, no test. On a
    GPU it is recorded once as a CUDA graph and replayed, so that launches cost nothing.

    Args:
        plans: the attention plans that ran, by layer.
    """
    layers, head = model.get_decoder().layers, model.get_output_embeddings()
    weight = layers[0].self_attn.q_proj.weight
    widest = max(record.tokens for record in trace.layers)
    rows = torch.randn(1, widest, head.in_features, dtype=weight.dtype, device=weight.device)

    def run():
        for layer, record in zip(layers, trace.layers, strict=True):
            _layer(layer, rows[:, : record.tokens], plans.get(record.layer))
        head(rows[:, :1])

    return _as_graph(run) if weight.device.type == "cuda" else run


def _layer(layer, rows, plan):
    attention, mlp = layer.self_attn, layer.mlp
    query, key, value = (
        projection(rows).view(1, rows.shape[1], -1, attention.head_dim).transpose(1, 2)
        for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    if plan is None:
        gqa = query.shape[1] != key.shape[1]
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=gqa)
        attended = attended.transpose(1, 2)
    else:
        scaling = attention.scaling
        attended, _ = planned_attention(attention, query, key, value, None, scaling, plan)
    attention.o_proj(attended.flatten(2))
    mlp.down_proj(mlp.gate_proj(rows) * mlp.up_proj(rows))


def _as_graph(run):
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def roofline(device: str, dtype: torch.dtype, side: int = 2048, repeats: int = 5) -> dict:
    """The largest measured matmul rate (FLOP/s) and copy rate (bytes/s): the classic context."""
    square = torch.randn(side, side, device=device, dtype=dtype)
    large = torch.empty(2**25, device=device, dtype=dtype)
    matmul = min(samples(lambda: square @ square, device, repeats))
    copy = min(samples(large.clone, device, repeats))
    return {
        "matmul_flops_per_second": 2 * side**3 / matmul,
        "copy_bytes_per_second": 2 * large.numel() * large.element_size() / copy,
    }
