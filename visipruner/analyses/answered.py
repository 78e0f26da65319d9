"""A prompt with its answer behind it, so that a token of the answer can be the asking one."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import torch

from visipruner.engine import prune
from visipruner.errors import Refused
from visipruner.families import Encoded
from visipruner.layout import TokenLayout
from visipruner.prompt import Prompt
from visipruner.running.results import Options
from visipruner.running.runner import generate


@torch.inference_mode()
def with_answer(vlm, prompt: Prompt, features: Encoded, options: Options | None = None) -> Prompt:
    """The prompt followed by the unpruned model's answer; its layout is the same, but longer.

    In prefill, a token of the answer reads what it read while it was decoded. What the analyses
    call the last prompt token is then the last token of the answer.

    Raises:
        Refused: the model's first logits are not numbers, or it answers with a picture's token.
    """
    own = prune(vlm.model, vlm.schedule, prompt.layout) if vlm.schedule else nullcontext()
    with vlm.lock, own:
        ids = generate(vlm, prompt, features, options or Options())[0].cpu()
    layout, ends = prompt.layout, vlm.model.generation_config.eos_token_id
    ends = ends if isinstance(ends, list) else [ends]
    if len(ids) > layout.length + 1 and int(ids[-1]) in ends:
        ids = ids[:-1]
    if (ids[layout.length :] == vlm.model.config.image_token_id).any():
        raise Refused("The answer holds the token of a picture, so it cannot stand in a prompt.")
    longer = TokenLayout(len(ids), layout.spans, layout.grids, tuple(ids.tolist()))
    asked = {
        name: _longer(tensor, layout.length, len(ids)) for name, tensor in prompt.asked.items()
    }
    asked |= {"input_ids": ids[None], "attention_mask": torch.ones_like(ids)[None]}
    return replace(prompt, inputs={**prompt.inputs, **asked}, layout=longer)


def _longer(tensor: torch.Tensor, length: int, wanted: int) -> torch.Tensor:
    """An input with a number for each token, such as its kind, for more tokens: 0 means text."""
    if tensor.shape != (1, length):
        return tensor
    return torch.nn.functional.pad(tensor, (0, wanted - length))
