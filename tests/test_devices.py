"""Pruning across devices: accelerate's hooks, and two imitated GPUs."""

from __future__ import annotations

import copy

import pytest
import torch
from accelerate import dispatch_model, infer_auto_device_map
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from places import Places, place_of
from support import DROPPING, LAYOUTS, embeds_for

from visipruner import PruningMethod, prune
from visipruner.running.results import Options
from visipruner.running.runner import compare, last_event
from visipruner.stock import output_cache, with_cache

SHORT = Options(max_new_tokens=4, probe=False)
LAYOUT = LAYOUTS["one picture"]


def test_accelerate_splits_between_layers_and_never_inside_one(mini):
    model = mini.model
    size = model.get_memory_footprint()
    split = infer_auto_device_map(
        model,
        max_memory={0: int(size * 0.6), 1: int(size * 0.6)},
        no_split_module_classes=list(model._no_split_modules),
    )
    layers = [name for name in split if ".layers." in name and "language_model" in name]
    assert {0, 1} <= set(split.values())
    assert all(name.split(".")[-1].isdigit() for name in layers)


def decisions(trace):
    """All but the scores: their last bits depend on the memory layout of a weight."""
    layers = [(r.tokens, r.visual_tokens, r.stage, r.pairs, r.kv_tokens) for r in trace.layers]
    return [cut.kept for cut in trace.cuts], layers, trace.decode_kv


@pytest.mark.parametrize("name", ["visipruner", "fastv", "random at the door"])
def test_a_dispatched_model_prunes_the_same(name, mini, picture, tmp_path):
    """Real accelerate hooks, later layers' weights on disk: their modules are empty in between."""
    prompt = mini.prepare(picture, "what colour is the star?")
    split = {f"model.language_model.layers.{i}": "disk" if i > 3 else "cpu" for i in range(8)}
    rest = ("model.vision_tower", "model.multi_modal_projector", "model.language_model.norm")
    split |= dict.fromkeys((*rest, "lm_head", "model.language_model.rotary_emb"), "cpu")
    split["model.language_model.embed_tokens"] = "cpu"
    model = copy.deepcopy(mini.model)
    dispatched = copy.copy(mini)
    dispatched.model = dispatch_model(model, split, main_device="cpu", offload_dir=tmp_path)
    dispatched.__dict__.pop("devices", None)
    assert model.model.language_model.layers[5].mlp.up_proj.weight.device.type == "meta"
    assert dispatched.device == torch.device("cpu") and dispatched.devices == [dispatched.device]
    methods = [PruningMethod(), DROPPING[name]]
    alone, over = (
        last_event(compare(vlm, prompt, methods, SHORT)).comparison for vlm in (mini, dispatched)
    )
    for one, other in zip(alone.answers, over.answers, strict=True):
        assert one.tokens == other.tokens and decisions(one.trace) == decisions(other.trace)


def loop(model, embeds, method, layout, steps=3):
    """Prefill and a few greedy steps, without generate(): the logits and the trace."""
    logits = []
    with torch.no_grad(), prune(model, method, layout) as trace:
        output = model(inputs_embeds=embeds)
        for _ in range(steps):
            logits.append(output.logits[:, -1].cpu())
            token = output.logits[:, -1:].argmax(-1)
            output = model(token, **with_cache(model, output_cache(output)))
    return torch.cat(logits), trace


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", DROPPING)
def test_pruning_goes_across_the_border_of_two_devices(name, attention, llama):
    """On imitated GPUs, mixing tensors of two devices raises. Only accelerate's hooks move them."""
    plain = llama(attention)
    embeds = embeds_for(LAYOUT, 64)
    expected, trace = loop(plain, embeds, DROPPING[name], LAYOUT)
    model = copy.deepcopy(plain)
    first, second = torch.device("cuda", 0), torch.device("cuda", 1)
    inner = model.model
    homes = dict.fromkeys((inner.embed_tokens, inner.rotary_emb, *inner.layers[:4]), first)
    homes |= dict.fromkeys((*inner.layers[4:], inner.norm, model.lm_head), second)
    with Places() as places:
        for module, home in homes.items():
            for tensor in (*module.parameters(), *module.buffers()):
                tensor.place = home
            add_hook_to_module(module, AlignDevicesHook(home, place_submodules=False))
        found, split_trace = loop(model, embeds.to(first), DROPPING[name], LAYOUT)
    assert torch.equal(found, expected) and split_trace.to_json() == trace.to_json()
    assert places.used["cuda:0"] > 100 and places.used["cuda:1"] > 100


def test_the_imitation_refuses_what_real_devices_refuse():
    with Places(), pytest.raises(RuntimeError, match=r"cuda:0.*cuda:1"):
        torch.ones(3, device="cuda:0") + torch.ones(3).to("cuda:1")
    with Places():
        assert place_of(torch.ones(3).to("cuda:1") * torch.tensor(2.0)) == torch.device("cuda:1")
