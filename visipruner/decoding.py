"""How an answer's tokens are chosen: by this program's options alone, not by the checkpoint's.

`generate()` fills every open setting from `model.generation_config`, which comes from the
checkpoint's folder. Beams, static caches, guidance and the like could not be pruned exactly.
Penalties and stop strings would change the comparison. So a run replaces that configuration, and
keeps only its token ids.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from transformers import GenerationConfig

# Settings that change an answer and have no option in this program, each with its neutral value.
# The person who asks chooses length and temperature.
_NEUTRAL = {
    "assistant_ensemble_weight": None,
    "bad_words_ids": None,
    "begin_suppress_tokens": None,
    "constraints": None,
    "diversity_penalty": 0,
    "dola_layers": None,
    "encoder_no_repeat_ngram_size": 0,
    "encoder_repetition_penalty": 1,
    "exponential_decay_length_penalty": None,
    "force_words_ids": None,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "guidance_scale": 1,
    "max_time": None,
    "min_length": 0,
    "min_new_tokens": 0,
    "no_repeat_ngram_size": 0,
    "num_beams": 1,
    "num_return_sequences": 1,
    "penalty_alpha": 0,
    "repetition_penalty": 1,
    "sequence_bias": None,
    "stop_strings": None,
    "suppress_tokens": None,
    "token_healing": False,
    "watermarking_config": None,
}
# These matter only if the folder samples.
_SAMPLING = {
    "epsilon_cutoff": 0,
    "eta_cutoff": 0,
    "min_p": None,
    "top_h": None,
    "top_k": 0,
    "top_p": 1,
    "typical_p": 1,
}


def notes(model) -> tuple[str, ...]:
    """A sentence for the user, if the folder has settings that would have changed the answers."""
    folder = model.generation_config
    known = _NEUTRAL | (_SAMPLING if folder.do_sample else {})
    left = [n for n, neutral in known.items() if not _is_open(getattr(folder, n, None), neutral)]
    if not left:
        return ()
    verb = "is" if len(left) == 1 else "are"
    return (f"This model's own settings for answers {verb} not used here: {', '.join(left)}.",)


def _is_open(value, neutral) -> bool:
    return value is None or value == neutral or value in ([], {}, "")


def configuration(model, max_new_tokens: int, temperature: float) -> GenerationConfig:
    """The whole configuration of one run: greedy decoding, or sampling at a temperature."""
    folder = model.generation_config
    sampling = {"do_sample": False}
    if temperature:
        sampling = {"do_sample": True, "temperature": temperature, "top_p": 1.0, "top_k": 0}
    return GenerationConfig(
        max_new_tokens=max_new_tokens,
        use_cache=True,
        num_beams=1,
        num_return_sequences=1,
        bos_token_id=folder.bos_token_id,
        eos_token_id=folder.eos_token_id,
        pad_token_id=folder.pad_token_id,
        **sampling,
    )


@contextmanager
def settled(model, configuration: GenerationConfig) -> Iterator[GenerationConfig]:
    """Inside, the model has only these generation settings."""
    folder = model.generation_config
    model.generation_config = configuration
    try:
        yield configuration
    finally:
        model.generation_config = folder
