"""Shared by several test modules: prompts, methods that drop, runs, and other kinds of models."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from transformers import (
    AutoModelForCausalLM,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

from visipruner import (
    DART,
    DivPrune,
    FastV,
    PruningMethod,
    PyramidDrop,
    Random,
    Schedule,
    SparseVLMPlus,
    TokenLayout,
    VisiPruner,
    prune,
)
from visipruner.layout import gaps
from visipruner.tower import Clip, needs_clip
from visipruner.trace import Selection

STEPS = 4

LAYOUTS = {
    "one picture": TokenLayout(60, ((6, 46),)),
    "two adjacent": TokenLayout(90, ((6, 76),)),
    "text between": TokenLayout(80, ((4, 34), (40, 70))),
    "picture last but one": TokenLayout(40, ((3, 39),)),
}


def clip_for(methods, patches: int) -> Clip | None:
    """CLIP's embeddings, drawn at random, if one of the methods needs them."""
    if not needs_clip(methods):
        return None
    generator = torch.Generator().manual_seed(6)
    return Clip(*(torch.randn(count, 12, generator=generator) for count in (patches, 2)))


def run_pruned(model, method, layout, embeds):
    """Greedy tokens through generate(): (ids, logits per step, hidden rows per layer, trace)."""
    clip = clip_for(method if isinstance(method, list) else [method], layout.num_visual)
    hidden, handles = [], []
    for layer in model.model.layers:
        # Registered before prune()'s hooks, so it sees every row that the layer computed.
        handles.append(
            layer.register_forward_hook(
                lambda _m, _i, output: hidden.append(output[0]) if output.shape[1] > 1 else None
            )
        )
    with torch.no_grad(), prune(model, method, layout, clip=clip) as trace:
        run = model.generate(
            inputs_embeds=embeds,
            max_new_tokens=STEPS,
            do_sample=False,
            return_dict_in_generate=True,
            output_logits=True,
        )
    for handle in handles:
        handle.remove()
    return run.sequences[0], torch.cat(run.logits), hidden, trace


def present_positions(trace, layout, layer):
    visual = [layout.visual[patch] for patch in trace.patches_at(layer)]
    text = sorted(set(range(layout.length)) - set(layout.visual))
    return sorted(text + visual)


def embeds_for(layout, width, seed=3, spread=1.0):
    """Clustered visual tokens, so that a few of them can matter."""
    generator = torch.Generator().manual_seed(seed)
    embeds = torch.randn(1, layout.length, width, generator=generator)
    visual = list(layout.visual)
    embeds[0, visual] = embeds[0, visual] * 0.1 + torch.randn(width, generator=generator)
    strong = visual[:: max(1, len(visual) // 4)]
    embeds[0, strong] = spread * 3 * torch.randn(len(strong), width, generator=generator)
    return embeds


KEEP_ALL = {
    "none": PruningMethod(),
    "visipruner": VisiPruner(stages=("middle", "deep"), layer_threshold=-1.0, shallow_layers=1),
    "visipruner keeps all": VisiPruner(
        stages=("middle", "deep"),
        layer_threshold=1.0,
        tokens_threshold=0.0,
        exit_threshold=1.0,
        shallow_layers=1,
    ),
    "fastv": FastV(keep=1000),
    "random": Random(keep=1000),
    "schedule": Schedule(keep=1000, keep_after=2, none_after=None),
    "pyramiddrop": PyramidDrop(layers=(2, 4), ratios=(1.0, 1.0)),
    "sparsevlm_plus": SparseVLMPlus(layers=(), keep=()),
    "divprune": DivPrune(1_000),
    "dart": DART(1_000),
}

DROPPING = {
    "visipruner": VisiPruner(shallow_layers=2, layer_threshold=0.9999, tokens_threshold=0.1),
    "visipruner, question": VisiPruner(
        "question", shallow_layers=2, layer_threshold=0.9999, tokens_threshold=0.1
    ),
    "fastv": FastV(keep=7),
    "fastv late": FastV(keep=3, before_layer=8),
    "random at the door": Random(keep=9),
    "random later": Random(keep=9, after_layer=3, seed=5),
    "schedule": Schedule(keep=5, keep_after=2, none_after=4),
    "schedule at the door": Schedule(keep=4, keep_after=-1, none_after=3),
    "nothing at all": Schedule(keep=0, keep_after=0, none_after=None),
    "late entry": Schedule(keep_after=None, none_after=None, enter=3),
    "late entry, few, exit": Schedule(keep=6, keep_after=4, none_after=6, enter=2),
    "vision exit": Schedule(keep_after=None, none_after=4),
    "pyramiddrop": PyramidDrop(layers=(2, 4), ratios=(0.5, 0.1), renumber=False),
    "sparsevlm_plus": SparseVLMPlus(layers=(1, 3), keep=(20, 5), heads=3),
    "divprune": DivPrune(9, renumber=False),
    "dart": DART(1),
}


def answer(model, tokens: int, **inputs) -> tuple[torch.Tensor, torch.Tensor]:
    """A greedy answer of exactly this many tokens: (the last ids, logits per step)."""
    with torch.no_grad():
        run = model.generate(
            **inputs,
            max_new_tokens=tokens,
            min_new_tokens=tokens,
            do_sample=False,
            return_dict_in_generate=True,
            output_logits=True,
        )
    return run.sequences[0, -tokens:], torch.cat(run.logits)


@contextmanager
def eager(model):
    """Inside, the model computes attention eagerly."""
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation("sdpa")


def asked_of(vlm, picture) -> tuple[dict, TokenLayout]:
    """A prompt's inputs for `generate`, and its layout."""
    prompt = vlm.prepare(picture, "what colour is the star?")
    names = ("input_ids", "attention_mask", "pixel_values")
    return {name: prompt.inputs[name] for name in names}, prompt.layout


def greedy(model, embeds, **options):
    with torch.no_grad():
        run = model.generate(
            inputs_embeds=embeds,
            max_new_tokens=4,
            do_sample=False,
            return_dict_in_generate=True,
            output_logits=True,
            **options,
        )
    return run.sequences[0], torch.cat(run.logits)


@dataclass(frozen=True)
class MergeAtTheDoor(PruningMethod):
    """Averages the visual tokens into four before the language model, and renumbers."""

    name: ClassVar[str] = "merge"

    def encode(self, view):
        groups = view.patches.chunk(4)
        carriers = [view.layout.visual[int(group[0])] for group in groups]
        into = {
            view.layout.visual[patch]: carrier
            for group, carrier in zip(groups, carriers, strict=True)
            for patch in group.tolist()
        }
        text = gaps(view.layout.spans, view.layout.length)
        keep = sorted(carriers + [row for part in text for row in range(*part)])
        hidden = view.hidden[:, keep].clone()
        for group, carrier in zip(groups, carriers, strict=True):
            mean = view.hidden[:, view.visual_rows[group]].mean(1)
            hidden[:, keep.index(carrier)] = mean
        return Selection(tuple(keep), "merge", hidden=hidden, into=into, compact=True)


@dataclass(frozen=True)
class RenumberLater(Schedule):
    """Drops without renumbering; renumbers two layers later, where nothing is dropped."""

    name: ClassVar[str] = "renumber"

    def select(self, view):
        if view.layer != 4:
            return super().select(view)
        return Selection(tuple(view.tokens.tolist()), "renumber", compact=True)


SMALL = {
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "vocab_size": 100,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.2,
    "pad_token_id": 0,
}


def other_kind(config, **more):
    torch.manual_seed(4)
    return AutoModelForCausalLM.from_config(config(**{**SMALL, **more})).eval()


def state_of(model):
    hooks = [
        (len(m._forward_pre_hooks), len(m._forward_hooks), len(m.__dict__)) for m in model.modules()
    ]
    configs = [m.config for m in model.modules() if hasattr(m, "config")]
    backends = [config._attn_implementation for config in configs]
    return hooks, [id(config) for config in configs], backends


VISION = CLIPVisionConfig(
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    image_size=56,
    patch_size=14,
)

TEXT = {
    "vocab_size": 60,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.2,
}

IMAGE = 59


def build(kind, config, text, **more):
    torch.manual_seed(2)
    model = kind(
        config(
            vision_config=VISION,
            text_config=text,
            image_token_id=IMAGE,
            vision_feature_layer=-1,
            **more,
        )
    ).eval()
    model.generation_config.eos_token_id = None
    for module in model.model.language_model.modules():  # Qwen2's biases start at zero
        if getattr(module, "bias", None) is not None:
            torch.nn.init.normal_(module.bias, std=0.3)
    return model


def inputs_for(model, **pictures):
    features = model.get_image_features(**pictures, return_dict=True).pooler_output
    visual = sum(len(part) for part in features)
    ids = torch.tensor([[1, 7, 8, *[IMAGE] * visual, 9, 10, 11, 12]])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), **pictures}
    return inputs, TokenLayout.from_ids(ids, IMAGE)


def relative(name):
    torch.manual_seed(3)
    if name == "llava-next":
        grids = {"image_grid_pinpoints": [[56, 112], [112, 56], [112, 112]]}
        text = LlamaConfig(**TEXT)
        model = build(LlavaNextForConditionalGeneration, LlavaNextConfig, text, **grids)
        crops, sizes = torch.randn(1, 5, 3, 56, 56), torch.tensor([[80, 112]])
        return model, *inputs_for(model, pixel_values=crops, image_sizes=sizes)
    text = {
        "mistral": lambda: MistralConfig(sliding_window=None, **TEXT),
        "qwen2": lambda: Qwen2Config(**TEXT),
        "qwen3": lambda: Qwen3Config(head_dim=16, **TEXT),
    }[name]()
    model = build(LlavaForConditionalGeneration, LlavaConfig, text)
    return model, *inputs_for(model, pixel_values=torch.randn(1, 3, 56, 56))


def generate(model, inputs):
    with torch.no_grad():
        run = model.generate(
            **inputs,
            max_new_tokens=4,
            do_sample=False,
            suppress_tokens=[model.config.image_token_id],  # random weights may generate it
            return_dict_in_generate=True,
            output_logits=True,
        )
    return run.sequences[0], torch.cat(run.logits)


def check_dropping_equals_masking(model, inputs, layout):
    """Repeat the decisions on the unpruned eager model with its own masks, without our code."""
    backend = model.config.get_text_config()._attn_implementation
    for method in (FastV(keep=3), Schedule(keep=5, keep_after=1, none_after=3)):
        with prune(model, method, layout) as trace:
            ids, logits = generate(model, inputs)
        gone = {
            record.layer: sorted(
                set(layout.visual) - {layout.visual[p] for p in trace.patches_at(record.layer)}
            )
            for record in trace.layers
        }
        assert gone[len(gone) - 1]

        def mask(_module, args, kwargs, columns):
            seen = kwargs["attention_mask"].clone()
            seen[..., columns] = torch.finfo(seen.dtype).min
            return args, {**kwargs, "attention_mask": seen}

        model.set_attn_implementation("eager")
        layers = model.model.language_model.layers
        handles = [
            layers[i].register_forward_pre_hook(
                lambda m, a, k, columns=columns: mask(m, a, k, columns), with_kwargs=True
            )
            for i, columns in gone.items()
        ]
        full = {**inputs, "input_ids": ids[None, :-1], "attention_mask": None}
        with torch.no_grad():
            masked = model(**full).logits[0, layout.length - 1 :]
        for handle in handles:
            handle.remove()
        model.set_attn_implementation(backend)
        assert (logits - masked).abs().max() < 2e-5 * masked.abs().max()


def two_pictures(vlm, prompt):
    """The prompt as if its picture were two, with text between them; see `Embedded`."""
    start, stop = prompt.layout.spans[0]
    layout = TokenLayout(prompt.layout.length, ((start, start + 6), (start + 9, stop)))
    ids = prompt.inputs["input_ids"].clone()
    ids[0, start + 6 : start + 9] = vlm.processor.tokenizer.convert_tokens_to_ids("red")
    return replace(prompt, layout=layout, inputs={**prompt.inputs, "input_ids": ids})


class Embedded:
    """Embeddings instead of a picture's features: any token may count as visual."""

    tower = None

    def __init__(self, vlm, prompt):
        ids = prompt.inputs["input_ids"]
        states = vlm.model.get_input_embeddings()(ids).detach().clone()
        visual = list(prompt.layout.visual)
        generator = torch.Generator().manual_seed(7)
        states[0, visual] = torch.randn(len(visual), states.shape[-1], generator=generator)
        self.arguments = {"inputs_embeds": states}
