"""What is measured: models of known shape, and fixed schedules instead of VisiPruner's decisions.

Speed depends on shapes and on the schedule, not on the weights. So a schedule says how many layers
run in full and how many visual tokens stay, and VisiPruner's tests run beside it without a say.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

from visipruner.choice import Side
from visipruner.errors import Refused
from visipruner.layout import TokenLayout
from visipruner.levels import PUBLISHED_LAYERS
from visipruner.methods import Schedule, VisiPruner
from visipruner.models.catalogue import load_vlm
from visipruner.models.loading import keep_odd_layers_unpacked
from visipruner.models.saving import TEXT
from visipruner.stock import find_decoder

# LLaVA-1.5-7B in the paper: of 32 layers, the first FULL_LAYERS run in full; layer 23 is the last
# with visual tokens.
SHALLOW_LAYERS = 7
FULL_LAYERS = (15, 12, 8)
LAST_VISUAL_LAYER = 23
KEPT = 10
ALIGNED = "aligned"
ENTER, LEAVE, ALIGNED_LAYERS = 3, 5, 12  # the schedule that tiny-aligned was trained for
VISUAL = 24 * 24  # patches of one picture in LLaVA-1.5


def timetable(full_layers: int, layers: int, semantics: str = "paper") -> Side:
    """VisiPruner's work with fixed decisions: `full_layers` of 32 in full, scaled to `layers`.

    A stack of shipped methods. A schedule cuts. A VisiPruner that never filters edits the shallow
    layers and tests every layer from there on. In the paper's semantics a second one filters where
    the schedule cuts and keeps all that the schedule leaves, so that caches are shortened there.
    """
    filter_at = round(layers * full_layers / PUBLISHED_LAYERS) - 1
    exit_at = round(layers * (LAST_VISUAL_LAYER + 1) / PUBLISHED_LAYERS) - 1
    return with_tests(Schedule(KEPT, filter_at, exit_at), layers, semantics)


def with_tests(cuts: Schedule, layers: int, semantics: str = "paper") -> Side:
    """A schedule that cuts twice, with VisiPruner's shallow edits, tests and caches (see above)."""
    late = semantics == "official"  # its first test comes one layer later
    shallow = round(layers * (SHALLOW_LAYERS - late) / PUBLISHED_LAYERS)
    shallow = max(0, min(shallow, cuts.keep_after - late))
    tests = VisiPruner(semantics, shallow_layers=shallow, layer_threshold=-1.0)
    if late:  # it caches all that it computed
        return cuts, tests
    caches = VisiPruner(
        stages=("middle",),
        shallow_layers=max(0, cuts.keep_after),  # so this is the first layer that it tests
        layer_threshold=1.0,
        tokens_threshold=0.0,
    )
    return cuts, tests, caches


def aligned(layers: int) -> Schedule:
    """Visual tokens in the middle layers alone, as in tiny-aligned, scaled to `layers`."""
    enter = max(1, round(layers * ENTER / ALIGNED_LAYERS))
    leave = round(layers * (LEAVE + 1) / ALIGNED_LAYERS) - 1
    return Schedule(keep_after=None, enter=enter, none_after=max(enter, leave))


@dataclass
class Scenario:
    """A language model, a prompt's layout and its embeddings."""

    name: str
    model: PreTrainedModel
    layout: TokenLayout
    embeds: torch.Tensor  # (1, tokens, width)

    @property
    def device(self) -> str:
        return str(self.embeds.device)  # "cpu" or "cuda:0"

    @property
    def layers(self) -> int:
        return self.model.config.get_text_config().num_hidden_layers


SHAPES = {
    # 0.6 B parameters, with Llama's proportions.
    "llama-0.6b": {
        "hidden_size": 1536,
        "intermediate_size": 4096,
        "num_hidden_layers": 20,
        "num_attention_heads": 12,
        "vocab_size": 32000,
    },
    # LLaVA-1.5-7B's language model, exactly.
    "llava-1.5-7b": {
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "vocab_size": 32064,
    },
}


def scenario(name: str, visual: int, device: str, precision: str) -> Scenario:
    """The bundled model ("tiny"), or random weights of a shape in SHAPES, and a prompt for it.

    Args:
        precision: "float32", "bfloat16", "float16", or "4-bit": NF4 for the layers' matrices only.

    Raises:
        Refused: the name is unknown.
    """
    named(name)
    dtype = dtype_of(device, precision)
    if name == "tiny":
        model = load_vlm("tiny", device=device, precision=precision).model
    else:
        model = made(AutoModelForCausalLM, language_config(SHAPES[name]), device, precision)
    before, after = TEXT
    layout = TokenLayout(before + visual + after, ((before, before + visual),))
    width = model.config.get_text_config().hidden_size
    generator = torch.Generator().manual_seed(1)
    embeds = torch.randn(1, layout.length, width, generator=generator).to(device, dtype)
    return Scenario(name, model, layout, embeds)


def named(name: str):
    """Check a scenario's name.

    Raises:
        Refused: it is unknown.
    """
    if name != "tiny" and name not in SHAPES:
        raise Refused(f"There is no scenario {name!r}; known: tiny, {', '.join(SHAPES)}.")


def language_config(sizes: dict) -> LlamaConfig:
    """A language model's configuration, with its sizes as in SHAPES."""
    return LlamaConfig(**{"max_position_embeddings": 4096, **sizes})


def made(kind, config, device: str, precision: str) -> PreTrainedModel:
    """A model of random weights, always the same on one device.

    Args:
        kind: one of transformers' automatic classes.
        precision: as for `scenario`.
    """
    torch.manual_seed(0)
    with torch.device(device):
        model = kind.from_config(config, dtype=dtype_of(device, precision))
    model.eval().requires_grad_(False)
    if precision == "4-bit":
        to_4_bit(find_decoder(model).layers)
        keep_odd_layers_unpacked(model)
    return model


def dtype_of(device: str, precision: str) -> torch.dtype:
    """The dtype of computation; 4-bit weights are multiplied in 16 bits on a GPU."""
    if precision == "4-bit":
        return torch.float32 if device == "cpu" else torch.bfloat16
    return getattr(torch, precision)


def to_4_bit(module: nn.Module):
    """Replace every linear layer inside by bitsandbytes' NF4 with double quantisation."""
    from bitsandbytes.nn import Linear4bit, Params4bit

    for child_name, child in module.named_children():
        if not isinstance(child, nn.Linear):
            to_4_bit(child)
            continue
        weight, dtype = child.weight, child.weight.dtype
        small = Linear4bit(
            child.in_features, child.out_features, False, dtype, quant_type="nf4", device="meta"
        )
        small.weight = Params4bit(weight.cpu(), requires_grad=False, quant_type="nf4")
        # Moving quantises; in training mode bitsandbytes would use its slower CPU path.
        setattr(module, child_name, small.to(weight.device).eval())
