"""Checks of what runs inside a `with prune(...)` block: the thread, the call, the model."""

from __future__ import annotations

import inspect
import threading

from torch import nn

from visipruner.errors import Refused
from visipruner.layout import TokenLayout

OTHER_THREAD = (
    "This model is pruning the prompt of another thread: wait until its `with prune(...)` is over. "
    "The thread that opens the block may run the model in it, or one thread that it starts there."
)
LEFT_EARLY = (
    "The `with prune(...)` block of this prompt was left while the model still ran. Leave it when "
    "the thread that runs the model has ended."
)
NOTHING_RAN = (
    "No prompt ran through this model inside its `with prune(...)`, so nothing was pruned. Run the "
    "model itself there (not a compiled form of it, nor a copy), and let a thread end before the "
    "block does."
)
NOT_THROUGH = (
    "The prompt of this `with prune(...)` did not get through all layers before the block was left."
)
CACHE_IS_PRUNED = (
    "This cache holds a pruned prompt whose `with prune(...)` is over, and nothing can follow it. "
    "For a further turn, run the whole conversation as a new prompt."
)


class Turn:
    """Lets one thread run one prompt, and keeps the hooks in place until it is out of the model.

    A thread that existed before the block and did not open it is refused. Otherwise its unrelated
    request could be taken for the prompt.
    """

    def __init__(self):
        self._others = set(threading.enumerate()) - {threading.current_thread()}
        self._runner: threading.Thread | None = None  # runs the prompt
        self._running = False  # the runner is in a forward pass
        self._closed = False
        self._lock = threading.Lock()

    @property
    def is_mine(self) -> bool:
        """Does the calling thread run the prompt?"""
        return threading.current_thread() is self._runner

    def admit(self):
        """Refuse a forward pass of a thread that may not run the prompt.

        Raises:
            Refused: another thread runs it, or the block is over.
        """
        here = threading.current_thread()
        if here in self._others or self._runner not in (None, here):
            raise Refused(OTHER_THREAD)
        if self._closed:
            raise Refused(LEFT_EARLY)

    def begin(self):
        """Start a forward pass of the calling thread; the first pass makes it the runner."""
        with self._lock:
            self.admit()
            self._runner, self._running = threading.current_thread(), True

    def check(self):
        """Between layers: refuse a pass that began before the block or goes on after it."""
        if not self.is_mine:
            raise Refused(OTHER_THREAD)
        if self._closed:
            raise Refused(LEFT_EARLY)

    def end(self) -> bool:
        """End the runner's pass. True: the block has ended too, so remove the hooks now."""
        with self._lock:
            self._running = False
            return self._closed

    def close(self) -> bool:
        """End the block. False: another thread is still inside the model and will call end()."""
        with self._lock:
            self._closed = True
            return not self._running or self.is_mine or not self._runner.is_alive()


def check_call(model: nn.Module, layout: TokenLayout, args: tuple, kwargs: dict):
    """Refuse a call of the whole model that a pruned prompt cannot serve.

    Raises:
        Refused: another prompt's tokens, labels, or logits at positions that may be dropped.
    """
    if args:
        kwargs = {**inspect.signature(model.forward).bind_partial(*args).arguments, **kwargs}
    if kwargs.get("labels") is not None:
        raise Refused(
            "prune() gives no loss: of dropped tokens there are no logits. Call the model without "
            "labels."
        )
    ids = kwargs.get("input_ids")
    if layout.ids is not None and ids is not None and ids.shape == (1, layout.length):
        if tuple(ids[0].tolist()) != layout.ids:
            raise Refused(
                "The layout of this `with prune(...)` was made from the tokens of another prompt "
                "than the one that arrived."
            )
    after_picture = layout.length - 1 - layout.visual[-1] if layout.num_visual else layout.length
    most, wanted = max(1, after_picture), kwargs.get("logits_to_keep")
    if wanted is not None and (not isinstance(wanted, int) or wanted > most):
        raise Refused(
            "prune() has no logits by place in the prompt: of dropped tokens there are none. "
            f"logits_to_keep can be a number up to {most}, the tokens after the picture."
        )


def check_outputs(config, kwargs: dict):
    """Refuse a forward pass of the decoder that returns attentions or states of every layer.

    Raises:
        Refused: pruned layers hold fewer tokens, and layers with a plan have no attention map.
    """
    for name in ("output_attentions", "output_hidden_states"):
        wanted = kwargs.get(name)
        if wanted or (wanted is None and getattr(config, name, False)):
            raise Refused(
                f"prune() cannot return {name.removeprefix('output_')} of all layers, because "
                f"each layer may hold other tokens: call the model without {name}."
            )


def check_not_compiled(model: nn.Module, decoder: nn.Module):
    """Refuse a model if a part with hooks is compiled.

    Raises:
        Refused: compiled code would ignore the hooks.
    """
    parts = [*decoder.layers, *(layer.self_attn for layer in decoder.layers), decoder]
    if model is not decoder:
        parts.append(model.get_output_embeddings())
    while model not in (None, decoder):  # through nested models down to the decoder
        parts.append(model)
        model = getattr(model, "model", getattr(model, "language_model", None))
    if any(map(_is_compiled, parts)):
        raise Refused(
            "This model is compiled, and compiled code does not see what prune() hangs on it: "
            "hand over the model as it was before torch.compile()."
        )


def _is_compiled(module: nn.Module | None) -> bool:
    """Compiled by torch.compile(module), by module.compile(), or only its forward?"""
    if module is None:
        return False
    by_forward = hasattr(module.__dict__.get("forward"), "get_compiler_config")
    return by_forward or module._compiled_call_impl is not None
