"""A loaded miniature of a family, with a prompt, and what the stock model answers to it."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from family_models import MINIS
from family_parts import picture_of

from visipruner import prune
from visipruner.models.catalogue import load_vlm

STEPS = 8
QUESTION = "what?"


class Ready:
    """A loaded miniature with a prompt, its features, and what the stock model answers."""

    def __init__(self, name: str, folder):
        self.mini = MINIS[name]
        self.vlm = load_vlm(self.mini.save(folder), device="cpu")
        self.prompt = self.vlm.prepare(picture_of(90, 60), QUESTION)
        self.features = {}  # by attention: the tower's differs too
        model, self.layout = self.vlm.model, self.prompt.layout
        decoder, head = self.vlm.parts.decoder, self.vlm.parts.lm_head
        self.plain = SimpleNamespace(
            config=model.config.get_text_config(), model=decoder, lm_head=head
        )
        self.special = self.mini.special(self)

    def answer(self, side=None, attention="sdpa"):
        """(tokens, logits of each, trace); `side` None: the stock model, pictures and all."""
        model = self.vlm.model
        model.set_attn_implementation(attention)
        options = {
            "max_new_tokens": STEPS,
            "min_new_tokens": STEPS,
            "do_sample": False,
            "return_dict_in_generate": True,
            "output_logits": True,
        }
        try:
            with torch.no_grad():
                if side is None:
                    run, trace = model.generate(**self.prompt.inputs, **options), None
                else:
                    if attention not in self.features:
                        self.features[attention] = self.vlm.encode(self.prompt)
                    with prune(model, side, self.layout) as trace:
                        given = {**self.prompt.asked, **self.features[attention].arguments}
                        run = model.generate(**given, **options)
        finally:
            model.set_attn_implementation("sdpa")
        return run.sequences[0, self.layout.length :], torch.cat(run.logits), trace

    def embeds(self) -> torch.Tensor:
        """(tokens, width): what enters layer 0 in the stock model."""
        seen = []
        handle = self.vlm.parts.layers[0].register_forward_pre_hook(
            lambda _, args, kwargs: seen.append(args[0] if args else kwargs["hidden_states"]),
            with_kwargs=True,
        )
        with torch.no_grad():
            self.vlm.model(**self.prompt.inputs)
        handle.remove()
        return seen[0][0]

    def of_answer(self, ids) -> torch.Tensor:
        """(tokens - 1, width): what enters layer 0 for the tokens of an answer but the last."""
        return self.vlm.model.get_input_embeddings()(ids[:-1]).detach()
