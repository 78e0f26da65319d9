"""Every recorded decision of the published code, in both attention backends."""

import json

import pytest
import torch
from conftest import GOLDEN, GOLDEN_CASES, GoldenCase
from safetensors.torch import load_file

from visipruner import FastV, TokenLayout, VisiPruner, prune
from visipruner.layout import Rows
from visipruner.trace import LayerRecord, PruningTrace
from visipruner.view import LayerView


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", GOLDEN_CASES)
def test_official_semantics_reproduce_the_recorded_run(name, attention, golden_model):
    case = GoldenCase(name)
    model = golden_model(case["model"], attention)
    start, visual = case["visual_start"], case["num_visual"]
    layout = TokenLayout(case.embeds.shape[1], ((start, start + visual),) if visual else ())
    method = VisiPruner.from_official_config(case["pruning_config"], case["model_size"])
    with torch.no_grad(), prune(model, method, layout) as trace:
        run = model.generate(
            inputs_embeds=case.embeds,
            max_new_tokens=12,
            do_sample=False,
            return_dict_in_generate=True,
            output_logits=True,
        )
    assert trace.filtering_layer == case["selected_at_layer"]
    kept = [cut.kept for cut in trace.cuts if cut.stage == "filter"]
    assert kept == ([case["kept_visual_indices"]] if case["selected_at_layer"] is not None else [])
    layers = len(trace.layers)
    assert (trace.calm_layers or [0] * layers) == case["exit_indicator_after_layer"]
    assert _first_layer_without_vision(trace) == case["all_visual_dropped_from_layer"]
    assert [record.tokens for record in trace.layers] == case["prefill_seq_len_per_layer"]
    assert [record.kv_tokens for record in trace.layers] == case["kv_len_after_prefill"]
    assert trace.decode_kv == case["kv_len_at_decode_steps"]
    assert [[position] for position in trace.decode_positions] == case["decode_position_ids"]
    assert run.sequences[0].tolist() == case["generated_ids"]
    torch.testing.assert_close(
        torch.cat(run.logits), case.outputs["step_logits"], atol=1e-4, rtol=0
    )
    if "select_cos" in case.outputs and trace.filtering_layer is not None:
        found = trace.layers[trace.filtering_layer].influence
        for ours, recorded in ((found.cos, "select_cos"), (found.l2, "select_l2")):
            recorded = case.outputs[recorded].flatten()
            torch.testing.assert_close(torch.tensor(ours), recorded, atol=1e-5, rtol=0)


def _first_layer_without_vision(trace):
    gone = [record.layer for record in trace.layers if not record.visual_tokens]
    return gone[0] if trace.num_visual and gone else None


def test_the_unpruned_runs_are_the_recorded_ones(golden_model):
    for name in GOLDEN_CASES[:3]:
        case = GoldenCase(name)
        run = golden_model(case["model"]).generate(
            inputs_embeds=case.embeds, max_new_tokens=12, do_sample=False
        )
        assert run[0].tolist() == case["generated_ids_off"]


class _RecordedView(LayerView):
    """A layer with a recorded attention row."""

    def attention_row(self):
        return self.memory.row


@pytest.mark.parametrize("number", [1, 3, 4, 5])
def test_fastv_keeps_what_its_code_kept(number):
    facts = json.loads((GOLDEN / "fastv" / f"case_{number}.json").read_text())
    tensors = load_file(GOLDEN / "fastv" / f"case_{number}.safetensors")
    hyper, place = facts["hyper"], facts["layout"]
    prefix, visual = place["prefix"], place["visual"]
    length = prefix + visual + place["text"]
    layout = TokenLayout(length, ((prefix, prefix + visual),))
    method = FastV(hyper["rank"], hyper["K"], start_shift=hyper["sys_length"] - prefix)
    trace = PruningTrace.begin([], layout)
    memory = type("Memory", (), {"row": tensors["in.attn_last_row"]})()
    view = _RecordedView(
        hyper["K"] - 1,
        hyper["K"] + 3,
        layout,
        Rows.of(layout),
        memory,
        trace,
        LayerRecord(hyper["K"] - 1, length, visual),
        hidden=torch.zeros(1, length, 1),
    )
    selection = method.select(view)
    scores = torch.tensor(selection.scores)
    torch.testing.assert_close(scores, tensors["out.score"], atol=1e-6, rtol=0)
    kept_visual = [k - prefix for k in selection.keep if prefix <= k < prefix + visual]
    assert kept_visual == tensors["out.kept_visual"].tolist()
    if hyper["inplace"]:
        assert list(selection.keep) == tensors["out.keep_abs"].tolist()
        assert list(selection.keep) == tensors["out.position_ids"].tolist()
    else:  # mask mode hides what drop mode drops
        visible = tensors["out.key_mask_last_row"].flatten().nonzero().flatten()
        assert list(selection.keep) == visible.tolist()
