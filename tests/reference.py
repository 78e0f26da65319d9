"""Pruning in its simplest form: full matrices, masks, no cache, on the weights of a stock Llama.

This file shares nothing with the engine, so that the two can disagree.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class Outcome:
    """The reference's decisions and results."""

    logits: Tensor  # (tokens, vocabulary)
    hidden: list[Tensor]  # per layer, (tokens, width)
    filtering_layer: int | None = None
    exit_layer: int | None = None
    kept: list[int] = field(default_factory=list)
    calm: list[int] = field(default_factory=list)
    cos: dict[int, Tensor] = field(default_factory=dict)  # per tested layer
    l2: dict[int, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Special:
    """What some families add to a Llama.

    Args:
        angles: (tokens, head width / 2): RoPE's angles, where positions are not 0, 1, 2, ...
        added: (features, width) per layer, added to the visual tokens of its output.
        visual: the positions of the visual tokens.
    """

    angles: Tensor | None = None
    added: tuple[Tensor, ...] = ()
    visual: tuple[int, ...] = ()


PLAIN = Special()


def angles_of(places: Tensor, width: int, theta: float) -> Tensor:
    """RoPE by its definition: (tokens, width / 2) angles, place * theta^(-2i/width)."""
    return places[:, None] * theta ** (-torch.arange(0, width, 2) / width)


def rotate(states: Tensor, angles: Tensor) -> Tensor:
    """Rotate pairs (i, i + d/2) of (..., tokens, d)."""
    width = states.shape[-1]
    cos, sin = angles.cos(), angles.sin()
    first, second = states[..., : width // 2], states[..., width // 2 :]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def weights_and_values(layer, hidden: Tensor, config, angles: Tensor | None = None):
    """Scores before the mask (heads, tokens, tokens) and values (heads, tokens, head width)."""
    attention, tokens = layer.self_attn, hidden.shape[0]
    normed = layer.input_layernorm(hidden)
    groups = config.num_attention_heads // config.num_key_value_heads

    def heads(projection, norm=None):
        states = projection(normed).view(tokens, -1, attention.head_dim)
        return (states if norm is None else norm(states)).transpose(0, 1)

    if angles is None:
        theta = config.rope_parameters["rope_theta"]
        angles = angles_of(torch.arange(tokens), attention.head_dim, theta)
    norms = (getattr(attention, name, None) for name in ("q_norm", "k_norm"))  # Qwen3 has them
    query, key = map(heads, (attention.q_proj, attention.k_proj), norms)
    query, key = rotate(query, angles), rotate(key, angles).repeat_interleave(groups, 0)
    value = heads(attention.v_proj).repeat_interleave(groups, 0)
    return query @ key.transpose(1, 2) / attention.head_dim**0.5, value


def influence(weights: Tensor, value: Tensor, asking: list[int], tested: list[int]):
    """Zero one weight, compute the output again, compare: (cos, l2) per tested token, in float64.

    Thresholds near 1 need these digits; the weights and values are the model's, in float32. The
    outputs of several asking tokens count as one, each brought to the last one's length.
    """
    rows = weights[:, asking].double()  # (heads, asking, tokens)
    value = value.double()  # (heads, tokens, width)
    outputs = torch.einsum("hak,hkd->ahd", rows, value).flatten(1)
    size = outputs[-1].norm() / outputs.norm(dim=1) / len(asking) ** 0.5
    output = (outputs * size[:, None]).flatten()
    cos, l2 = [], []
    for token in tested:
        without = rows.clone()
        without[:, :, token] = 0
        changed = torch.einsum("hak,hkd->ahd", without, value).flatten(1)
        changed = (changed * size[:, None]).flatten()
        cos.append(torch.dot(output, changed) / output.norm() / changed.norm())
        l2.append((output - changed).norm())
    return torch.stack(cos), torch.stack(l2)


@torch.no_grad()
def forward(model, embeds: Tensor, rule, present, after_layer=None, special=PLAIN) -> Outcome:
    """Run all tokens through all layers; dropped tokens are masked.

    Args:
        embeds: (tokens, width), the prompt and any decoded tokens.
        rule: (layer, scores, visible) -> softmaxed weights (heads, tokens, tokens), edits made.
        present: (layer, tokens) -> bool (tokens, tokens): the columns that each row may still see.
        after_layer: (layer, weights, value) called with every layer's attention.
        special: what this family adds to a Llama.
    """
    config, tokens = model.config, embeds.shape[0]
    causal = torch.ones(tokens, tokens, dtype=torch.bool).tril()
    outcome, hidden = Outcome(embeds, []), embeds
    for index, layer in enumerate(model.model.layers):
        angles = special.angles if special.angles is None else special.angles[:tokens]
        scores, value = weights_and_values(layer, hidden, config, angles)
        weights = rule(index, scores, causal & present(index, tokens))
        if after_layer is not None:
            after_layer(index, weights, value)
        attended = (weights @ value).transpose(0, 1).flatten(1)
        hidden = hidden + layer.self_attn.o_proj(attended)
        hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
        if index < len(special.added):
            hidden[list(special.visual)] += special.added[index]
        outcome.hidden.append(hidden)
    outcome.logits = model.lm_head(model.model.norm(hidden))
    return outcome


def softmax(scores: Tensor, visible: Tensor) -> Tensor:
    weights = scores.masked_fill(~visible, float("-inf")).softmax(-1)
    return weights.nan_to_num(0.0)  # a row that sees nothing was dropped


class VisiPrunerReference:
    """arXiv 2510.17205 on full matrices: as published code, as text, and tested on the question."""

    def __init__(self, model, layout, method, special=PLAIN):
        self.model, self.layout, self.method, self.special = model, layout, method, special
        self.layers = len(model.model.layers)

    def run(self, prompt: Tensor, decoded: Tensor) -> Outcome:
        """First run the prompt alone, to decide; then run all tokens with these decisions.

        Args:
            prompt: (tokens, width); decoded: (steps, width), the embeddings of generated tokens.
        """
        self.decided = Outcome(prompt, [])
        forward(self.model, prompt, self.rule, self.present, self.decide, self.special)
        everything = torch.cat([prompt, decoded])
        outcome = forward(self.model, everything, self.rule, self.present, special=self.special)
        for name in ("filtering_layer", "exit_layer", "kept", "calm", "cos", "l2"):
            setattr(outcome, name, getattr(self.decided, name))
        return outcome

    @property
    def visual(self) -> list[int]:
        return list(self.layout.visual)

    @property
    def asking(self) -> list[int]:
        """The tokens whose outputs are tested."""
        prompt = self.layout.length
        if self.method.semantics != "question":
            return [prompt - 1]
        return list(range(self.visual[-1] + 1, prompt))

    def is_visual(self, tokens: int) -> Tensor:
        mark = torch.zeros(tokens, dtype=torch.bool)
        mark[self.visual] = True
        return mark

    # -- what later layers no longer see

    def present(self, layer: int, tokens: int) -> Tensor:
        decided, prompt = self.decided, self.layout.length
        gone = torch.zeros(tokens, dtype=torch.bool)
        if decided.filtering_layer is not None and layer > decided.filtering_layer:
            gone[self.visual] = True
            gone[[self.visual[patch] for patch in decided.kept]] = False
        if decided.exit_layer is not None and layer > decided.exit_layer:
            gone[self.visual] = True
        present = (~gone).repeat(tokens, 1)
        present[prompt:, :prompt] &= ~self.not_cached(layer)
        return present

    def not_cached(self, layer: int) -> Tensor:
        """Visual columns that decoded tokens cannot see in this layer."""
        method, decided = self.method, self.decided
        gone = torch.zeros(self.layout.length, dtype=torch.bool)
        if method.semantics == "official":
            return gone
        if "shallow" in method.stages and layer < method.shallow_layers:
            gone[self.visual] = True
        elif decided.filtering_layer is not None and layer <= decided.filtering_layer:
            if method.cache_before_filter == "kept":
                gone[self.visual] = True
                gone[[self.visual[patch] for patch in decided.kept]] = False
        return gone

    # -- shallow

    def rule(self, layer: int, scores: Tensor, visible: Tensor) -> Tensor:
        method, prompt = self.method, self.layout.length
        if "shallow" not in method.stages or layer >= method.shallow_layers or not self.visual:
            return softmax(scores, visible)
        tokens = scores.shape[-1]
        visual = self.is_visual(tokens)
        in_prompt = torch.arange(tokens) < prompt
        if method.semantics == "official":
            return self.official_edit(layer, softmax(scores, visible), visual, in_prompt)
        visible = visible.clone()
        visible[(visual & in_prompt)[:, None] & visual[None]] = False
        if layer > 0:
            visible[(~visual & in_prompt)[:, None] & visual[None]] = False
            return softmax(scores, visible)
        weights = softmax(scores, visible)
        for row in range(prompt):
            seen = [v for v in self.visual if v < row]
            if visual[row] or not seen:
                continue
            total = weights[:, row, seen].sum(-1)
            weights[:, row, seen] = 0
            weights[:, row, seen[min(method.merge_index, len(seen) - 1)]] = total
        return weights

    def official_edit(self, layer, weights, visual, in_prompt):
        first, rows = self.visual[0], torch.arange(len(visual))
        text_after = ~visual & in_prompt & (rows > first)
        if layer > 0:
            weights[:, text_after[:, None] & visual[None]] = 0
            return weights
        weights[:, visual[:, None] & visual[None]] = 0
        if self.method.blind_half:
            half = torch.zeros_like(visual)
            half[self.visual[: len(self.visual) // 2]] = True
            weights[:, text_after[:, None] & half[None]] = 0
            return weights
        total = (weights * visual).sum(-1)
        weights[:, text_after[:, None] & visual[None]] = 0
        weights[:, text_after, first] = total[:, text_after]
        return weights

    # -- middle and deep

    def decide(self, layer: int, weights: Tensor, value: Tensor):
        method, decided = self.method, self.decided
        official, last = method.semantics == "official", self.layout.length - 1
        calm = decided.calm[-1] if decided.calm else 0
        first_tested = method.shallow_layers + (1 if official else 0)
        if "middle" not in method.stages or layer < first_tested:
            pass
        elif decided.filtering_layer is None:
            cos, l2 = influence(weights, value, self.asking, self.visual)
            decided.cos[layer], decided.l2[layer] = cos, l2
            if (cos < method.layer_threshold).any():
                bar = method.tokens_threshold
                if method.relative:
                    row = weights[:, last].double()
                    bar = bar * torch.einsum("hk,hkd->hd", row, value.double()).norm()
                decided.filtering_layer = layer
                stays = l2 > bar if official else l2 >= bar
                decided.kept = stays.nonzero().flatten().tolist()
                if not decided.kept and "deep" in method.stages and not official:
                    decided.exit_layer = layer
        elif "deep" in method.stages and not self._left_before(layer):
            calm = self._count(layer, weights, value, calm)
        elif official and "deep" in method.stages and not decided.kept:
            calm += 1
        decided.calm.append(calm)

    def _left_before(self, layer):
        decided = self.decided
        left = decided.exit_layer is not None and layer > decided.exit_layer
        return left or (self.method.semantics == "official" and not decided.kept)

    def _count(self, layer, weights, value, calm):
        decided, official = self.decided, self.method.semantics == "official"
        tested = [self.visual[patch] for patch in decided.kept]
        cos, l2 = influence(weights, value, self.asking, tested)
        decided.cos[layer], decided.l2[layer] = cos, l2
        if (cos < self.method.exit_threshold).any():
            return calm if official else 0
        if calm + 1 == 2 and not (official and len(decided.kept) == len(self.visual)):
            decided.exit_layer = layer
        return calm + 1


@torch.no_grad()
def late_entry(model, embeds, layout, enter, exit_after=None, gone=()):
    """All tokens in all layers: visual rows are reset where they enter, and masked before.

    Args:
        embeds: (tokens, width). gone: positions that no row sees.

    Returns:
        (tokens, vocabulary).
    """
    config, tokens = model.config, embeds.shape[0]
    causal = torch.ones(tokens, tokens, dtype=torch.bool).tril()
    visual = torch.zeros(tokens, dtype=torch.bool)
    visual[list(layout.visual)] = True
    causal[:, list(gone)] = False
    hidden = embeds
    for index, layer in enumerate(model.model.layers):
        if index == enter:
            hidden = torch.where(visual[:, None], embeds, hidden)
        hide = index < enter or (exit_after is not None and index > exit_after)
        seen = causal & ~visual[None] if hide else causal
        scores, value = weights_and_values(layer, hidden, config)
        attended = (softmax(scores, seen) @ value).transpose(0, 1).flatten(1)
        hidden = hidden + layer.self_attn.o_proj(attended)
        hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
    return model.lm_head(model.model.norm(hidden))
