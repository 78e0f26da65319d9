"""FLOPs from a model's shape and a trace. Pure functions; three ways of counting that never mix.

* `paper_macs`: the paper's formula, multiply-adds of the visual tokens only (appendix M).
* `executed`: every matrix product that ran, 2 FLOPs per multiply-add, attention as full rectangles
  and the method's own test included; equal to torch's FlopCounterMode if it sees the products.
* `attention_share`: the share of visual attention that is left, as the paper counts it and as
  executed.
"""

from __future__ import annotations

from dataclasses import dataclass

from visipruner.trace import LayerRecord, PruningTrace


@dataclass(frozen=True)
class ModelShape:
    """The sizes in a model's configuration that determine its FLOPs."""

    layers: int
    width: int
    query_width: int  # heads * head width
    kv_width: int  # key-value heads * head width
    ffn_width: int
    vocabulary: int

    @classmethod
    def of(cls, config) -> ModelShape:
        """From a Llama-like configuration, or from the language model of a LLaVA's."""
        config = config.get_text_config()
        head_width = getattr(config, "head_dim", None)
        head_width = head_width or config.hidden_size // config.num_attention_heads
        return cls(
            config.num_hidden_layers,
            config.hidden_size,
            config.num_attention_heads * head_width,
            config.num_key_value_heads * head_width,
            config.intermediate_size,
            config.vocab_size,
        )

    def token_macs(self) -> int:
        """Multiply-adds of one token in one layer, without attention scores."""
        projections = 2 * self.width * (self.query_width + self.kv_width)
        return projections + 3 * self.width * self.ffn_width

    def pair_macs(self) -> int:
        """Multiply-adds of one query-key pair: its score and its weighted value."""
        return 2 * self.query_width


@dataclass(frozen=True)
class ExecutedFlops:
    """Executed FLOPs by phase. `probe` is a part of `prefill`."""

    prefill: int
    probe: int
    decode: int


def executed(shape: ModelShape, trace: PruningTrace) -> ExecutedFlops:
    """FLOPs that the language model executed in one run, from its trace."""
    probe = trace.door_flops + sum(record.probe_flops for record in trace.layers)
    macs = trace.prefill_logits * shape.width * shape.vocabulary
    for record in trace.layers:
        macs += record.tokens * shape.token_macs() + record.pairs * shape.pair_macs()
    decode_macs = 0
    for keys_per_layer in trace.decode_kv:
        decode_macs += shape.width * shape.vocabulary
        decode_macs += sum(shape.token_macs() + n * shape.pair_macs() for n in keys_per_layer)
    return ExecutedFlops(2 * macs + probe, probe, 2 * decode_macs)


def dense(shape: ModelShape, trace: PruningTrace) -> int:
    """Prefill FLOPs if every layer computed all tokens: what a model's own schedule saves from."""
    tokens, layers = trace.length, len(trace.layers)
    layer = tokens * shape.token_macs() + tokens * tokens * shape.pair_macs()
    return 2 * (layers * layer + trace.prefill_logits * shape.width * shape.vocabulary)


def layer_flops(shape: ModelShape, record: LayerRecord) -> int:
    """Prefill FLOPs of one layer with the method's test; lm_head belongs to none."""
    macs = record.tokens * shape.token_macs() + record.pairs * shape.pair_macs()
    return 2 * macs + record.probe_flops


def paper_macs(shape: ModelShape, trace: PruningTrace) -> int:
    """The paper's formula: 4nd^2 + 2n^2 d + 3ndm per layer for n visual tokens.

    For VisiPruner, layers up to the filtering layer count without the attention term, as in
    appendix M, although that attention runs. The trace says how many layers these are.
    """
    macs = 0
    for record in trace.layers:
        n = record.visual_tokens
        macs += n * shape.token_macs()
        if record.layer >= trace.attention_free_layers:
            macs += n * n * shape.pair_macs()
    return macs


def attention_share(trace: PruningTrace) -> tuple[float, float]:
    """Visual attention left, by the paper's count and as executed, from 0 to 1.

    The paper counts only layers after the filtering layer. The dimensions of its printed R do not
    match, so it is read as L'(n'^2 + n' n_t) / (L (n^2 + n n_t)). The executed share counts scored
    causal query-key pairs with a visual query or key.
    """
    layers, visual = len(trace.layers), trace.num_visual
    if not visual or not layers:
        return 1.0, 1.0
    text = trace.length - visual
    after = [r.visual_tokens for r in trace.layers if r.layer >= trace.attention_free_layers]
    paper = sum(n * n + n * text for n in after) / (layers * (visual**2 + visual * text))
    return paper, sum(r.visual_pairs for r in trace.layers) / (layers * _visual_pairs(trace))


def _visual_pairs(trace: PruningTrace) -> int:
    """Causal pairs with a visual query or key in one unpruned layer."""
    position, pairs, visual_before = 0, 0, 0
    for start, stop in [*trace.spans, (trace.length, trace.length)]:
        pairs += (start - position) * visual_before  # text rows see the earlier visual tokens
        pairs += sum(range(start + 1, stop + 1))  # visual rows see all tokens up to themselves
        visual_before += stop - start
        position = stop
    return pairs


def kv_bytes(shape: ModelShape, trace: PruningTrace, element_bytes: int) -> int:
    """Size of the key-value cache when prefill ends."""
    return 2 * shape.kv_width * element_bytes * sum(record.kv_tokens for record in trace.layers)
