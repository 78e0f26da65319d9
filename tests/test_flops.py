"""The formula against torch's counter and the paper's numbers."""

from __future__ import annotations

import pytest
import torch
from support import DROPPING, LAYOUTS, embeds_for
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    SiglipVisionConfig,
)

from visipruner import PruningMethod, TokenLayout, VisiPruner, prune
from visipruner.families.llava import vision_flops
from visipruner.flops import (
    ModelShape,
    attention_share,
    executed,
    kv_bytes,
    layer_flops,
    paper_macs,
)
from visipruner.stock import output_cache, with_cache
from visipruner.trace import LayerRecord, MethodStory, PruningTrace

COUNTED = {
    "none": PruningMethod(),
    **DROPPING,
    "paper shallow": VisiPruner(stages=("shallow",), shallow_layers=3),
    "official": VisiPruner(
        semantics="official", shallow_layers=2, layer_threshold=0.9999, tokens_threshold=0.1
    ),
    "official 13b": VisiPruner(semantics="official", shallow_layers=2, blind_half=True),
}


@pytest.mark.parametrize("layout", ["one picture", "text between"])
@pytest.mark.parametrize("name", COUNTED)
def test_executed_flops_equal_the_counter(name, layout, llama):
    layout = LAYOUTS[layout]
    model, embeds = llama("eager"), embeds_for(layout, 64)
    # The math backend turns sdpa into matrix products that the counter sees.
    with (
        torch.no_grad(),
        sdpa_kernel(SDPBackend.MATH),
        prune(model, COUNTED[name], layout) as trace,
    ):
        with FlopCounterMode(display=False) as prefill:
            output = model(inputs_embeds=embeds, logits_to_keep=1)
        with FlopCounterMode(display=False) as decode:
            for _ in range(3):
                token = output.logits[:, -1:].argmax(-1)
                output = model(token, **with_cache(model, output_cache(output)))
    counted = executed(ModelShape.of(model.config), trace)
    assert counted.prefill == prefill.get_total_flops()
    assert counted.decode == decode.get_total_flops()
    head = 2 * trace.prefill_logits * 64 * 100
    layers = sum(layer_flops(ModelShape.of(model.config), record) for record in trace.layers)
    assert layers + trace.door_flops + head == counted.prefill


def test_vision_flops_equal_the_counter(mini, picture):
    prompt = mini.prepare(picture, "what colour?")
    mini.model.set_attn_implementation("eager")
    try:
        with FlopCounterMode(display=False) as counter:
            mini.encode(prompt)
    finally:
        mini.model.set_attn_implementation("sdpa")
    assert counter.get_total_flops() == vision_flops(mini.model.config, pictures=1)


@pytest.mark.parametrize(
    ("tower", "strategy", "layers"),
    [
        (SiglipVisionConfig(vision_use_head=False), "full", -2),
        (SiglipVisionConfig(vision_use_head=True), "full", -1),
        (CLIPVisionConfig(), "default", [-2, -1]),
        (CLIPVisionConfig(), "full", -2),
    ],
    ids=["no class token", "pooling head", "two layers", "class token kept"],
)
def test_other_towers_are_counted_right(tower, strategy, layers):
    """Also with a picture side that is no multiple of the patch."""
    size = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 3}
    size |= {"num_attention_heads": 2, "image_size": 47, "patch_size": 9}
    tower.update(size)
    text = {"hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 1}
    config = LlavaConfig(
        vision_config=tower,
        text_config=LlamaConfig(**text, num_attention_heads=2, vocab_size=20),
        vision_feature_select_strategy=strategy,
        vision_feature_layer=layers,
    )
    model = LlavaForConditionalGeneration._from_config(config, attn_implementation="eager")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.get_image_features(torch.zeros(1, 3, 47, 47), return_dict=True)
    assert counter.get_total_flops() == vision_flops(config, pictures=1)
    assert 2 * counter.get_total_flops() == vision_flops(config, pictures=2)


def test_kv_bytes_are_the_caches_own(llama):
    model, layout = llama(), LAYOUTS["one picture"]
    with torch.no_grad(), prune(model, DROPPING["visipruner"], layout) as trace:
        cache = output_cache(model(inputs_embeds=embeds_for(layout, 64)))
    real = sum(t.numel() * t.element_size() for c in cache.layers for t in (c.keys, c.values))
    assert kv_bytes(ModelShape.of(model.config), trace, 4) == real


def llava_trace(visual_per_layer, free=0, text=74):
    """A trace of LLaVA-1.5-7B's size with these visual tokens per layer."""
    trace = PruningTrace.begin([], TokenLayout(576 + text, ((35, 611),)))
    trace.stories = [MethodStory("x", {}, "", {"attention_free_layers": free})]
    trace.layers = [
        LayerRecord(i, n + text, n, pairs=(n + text) ** 2, visual_pairs=0, kv_tokens=n + text)
        for i, n in enumerate(visual_per_layer)
    ]
    return trace


LLAVA_7B = ModelShape(32, 4096, 4096, 4096, 11008, 32000)


def test_the_papers_numbers_come_out_of_the_papers_formula():
    """3.82 T dense; 15 full layers and exit at 23 give 1.767 T, -53.7% (arXiv 2510.17205)."""
    dense = paper_macs(LLAVA_7B, llava_trace([576] * 32))
    assert round(dense / 1e12, 2) == 3.82
    pruned = paper_macs(LLAVA_7B, llava_trace([576] * 15 + [10] * 9 + [0] * 8, free=15))
    assert round(pruned / 1e12, 3) == 1.767
    assert round(100 * (pruned / dense - 1), 1) == -53.7


def test_attention_share_of_the_paper_is_small_and_the_executed_one_is_not(llama):
    pruned = llava_trace([576] * 15 + [10] * 9 + [0] * 8, free=15)
    assert attention_share(pruned)[0] < 0.01  # the abstract's "up to 99%"
    layout = LAYOUTS["one picture"]
    with torch.no_grad(), prune(llama(), DROPPING["visipruner"], layout) as trace:
        llama()(inputs_embeds=embeds_for(layout, 64))
    with torch.no_grad(), prune(llama(), PruningMethod(), layout) as full:
        llama()(inputs_embeds=embeds_for(layout, 64))
    assert attention_share(full) == (1.0, 1.0)
    paper, ran = attention_share(trace)
    assert paper < ran < 1


@pytest.mark.parametrize("name", ["paper shallow", "official", "official 13b", "none"])
@pytest.mark.parametrize("layout", ["one picture", "two adjacent", "text between"])
def test_visual_pairs_are_counted_one_by_one(name, layout, llama):
    """Pairs that attention scored, from the plan that ran, against a loop over all pairs."""
    layout, method = LAYOUTS[layout], COUNTED[name]
    visual = set(layout.visual)
    with torch.no_grad(), prune(llama(), method, layout) as trace:
        llama()(inputs_embeds=embeds_for(layout, 64))
    for record in trace.layers[:4]:
        if record.visual_tokens < layout.num_visual:
            continue
        shallow = record.stage == "shallow" and method.semantics == "paper"
        expected = 0
        for query in range(layout.length):
            for key in range(query + 1):
                if query not in visual and key not in visual:
                    continue
                skipped = shallow and key in visual and (query in visual or record.layer > 0)
                expected += not skipped
        assert record.visual_pairs == expected
