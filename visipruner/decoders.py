"""Which models can be pruned, what methods may use of them, and the hooks that hold them."""

from __future__ import annotations

import weakref

import transformers
from torch import nn

from visipruner.errors import Refused
from visipruner.stock import attention_backend, find_decoder, missing_part
from visipruner.view import Parts


def decoder_of(model: nn.Module) -> nn.Module:
    """The stack of decoder layers inside a causal LM or a LLaVA."""
    decoder = find_decoder(model)
    check_free(decoder)
    if decoder not in _LLAMA_LIKE:
        if missing := missing_part(decoder):
            raise _not_llama_like(model, f"it has {missing}")
        _LLAMA_LIKE.add(decoder)
    if attention_backend(decoder) == "flex_attention":
        raise Refused("Flex attention's masks cannot be cut by tokens: use sdpa or eager.")
    return decoder


# Decoders that passed the check. The check takes longer than an influence test.
_LLAMA_LIKE: weakref.WeakSet = weakref.WeakSet()


def _not_llama_like(model: nn.Module, why: str) -> Refused:
    return Refused(f"{type(model).__name__} is not a Llama-like model: {why}.")


def not_understood(model: nn.Module, why: str) -> Refused:
    """The refusal that names the model and the installed release of transformers."""
    release = f"transformers {transformers.__version__}"
    return Refused(f"{type(model).__name__} of {release} cannot be pruned: {why}.")


def not_watched(model: nn.Module) -> Refused:
    """The refusal of a model that does not call transformers' attention functions."""
    return _not_llama_like(model, "its attention cannot be watched")


def check_free(decoder: nn.Module):
    """Refuse a decoder that another `prune` holds."""
    if any(isinstance(hook, RunHook) for hook in decoder._forward_pre_hooks.values()):
        raise Refused("This model is being pruned already: one prune() at a time per model.")


def parts_of(model: nn.Module, decoder: nn.Module) -> Parts:
    """The parts of a model that methods may use."""
    head = model.get_output_embeddings() if model is not decoder else None
    return Parts(list(decoder.layers), decoder.norm, head, decoder.config)


class RunHook:
    """A hook of a run, with the layer's number. Its type marks a model that is being pruned.

    A copy of the model, made inside the block, gets `_Nothing` instead.
    """

    def __init__(self, function, index):
        self.function, self.index = function, index

    def __call__(self, *args):
        return self.function(self.index, *args)

    def __reduce__(self):
        return _Nothing, ()


class _Nothing:
    """A hook without effect: copies of a model hold it in place of a run's hooks."""

    def __call__(self, *_):
        return None
