"""The model families that can be loaded and asked. To add one, add its file and a line here."""

from __future__ import annotations

from visipruner.errors import Refused
from visipruner.families.base import Encoded, Family, Parts
from visipruner.families.idefics3 import Idefics3
from visipruner.families.internvl import InternVL
from visipruner.families.llava import Llava, VipLlava
from visipruner.families.llava_next import LlavaNext
from visipruner.families.llava_onevision import LlavaOnevision
from visipruner.families.qwen import Qwen2VL, Qwen3VL, Qwen25VL

FAMILIES: dict[str, Family] = {  # by config.model_type
    "llava": Llava(),
    "vipllava": VipLlava(),
    "llava_next": LlavaNext(),
    "idefics3": Idefics3(),
    "llava_onevision": LlavaOnevision(),
    "internvl": InternVL(),
    "qwen2_vl": Qwen2VL(),
    "qwen2_5_vl": Qwen25VL(),
    "qwen3_vl": Qwen3VL(),
}


# Why kinds that people may try are not served, as the end of "It is a ... model, which".
_OWN_FORMAT = (
    "is its authors' own format; of many such checkpoints there is another one in the format of "
    "transformers, whose name ends in -hf"
)
NOT_SERVED = {
    "fast_vlm": "needs timm for its vision tower, and timm needs torchvision",
    "gemma3": (
        "attends through sliding windows, and its visual tokens see each other both ways, so its "
        "tokens cannot be dropped exactly"
    ),
    "internvl_chat": _OWN_FORMAT,
    "llava_llama": _OWN_FORMAT,
    "llava_mistral": _OWN_FORMAT,
    "llava_next_video": "answers about videos; only models for one picture can be opened",
    "llava_qwen": _OWN_FORMAT,
    "mistral3": "needs Pixtral's processor, which needs torchvision",
    "mobilevlm": (
        "has no class in transformers; of models of its size, SmolVLM-256M-Instruct and "
        "-500M-Instruct, LLaVA-OneVision 0.5B and InternVL 1B can be opened"
    ),
    "paligemma": "lets all tokens of a prompt see each other, so none can be dropped exactly",
    "smolvlm": (
        "is SmolVLM2, whose processor needs a video processor and num2words; SmolVLM-256M-Instruct "
        "and -500M-Instruct, of the first version, can be opened"
    ),
    "video_llava": "answers about videos; only models for one picture can be opened",
}


def family_of(kind: object, name: str = "This") -> Family:
    """The family that serves models of this `config.model_type`.

    Args:
        name: the checkpoint's name in a sentence.

    Raises:
        Refused: no family serves it; the sentence says why, or lists the served types.
    """
    if isinstance(kind, str) and kind in FAMILIES:
        return FAMILIES[kind]
    if isinstance(kind, str) and kind in NOT_SERVED:
        raise Refused(f"{name} holds a {kind!r} model, which {NOT_SERVED[kind]}.")
    served = ", ".join(f"{kind} ({family.title})" for kind, family in FAMILIES.items())
    raise Refused(
        f"{name} holds a {repr(kind)[:80]} model; models of these kinds can be opened: {served}."
    )


__all__ = ["FAMILIES", "NOT_SERVED", "Encoded", "Family", "Parts", "family_of"]
