"""The model families that can be loaded and asked. To add one, add its file and a line here."""

from __future__ import annotations

from visipruner.errors import Refused
from visipruner.families.base import Encoded, Family, Parts
from visipruner.families.idefics3 import Idefics3
from visipruner.families.internvl import InternVL
from visipruner.families.llava import Llava
from visipruner.families.llava_next import LlavaNext
from visipruner.families.llava_onevision import LlavaOnevision
from visipruner.families.qwen import Qwen2VL, Qwen3VL, Qwen25VL

FAMILIES: dict[str, Family] = {  # by config.model_type
    "llava": Llava(),
    "llava_next": LlavaNext(),
    "idefics3": Idefics3(),
    "llava_onevision": LlavaOnevision(),
    "internvl": InternVL(),
    "qwen2_vl": Qwen2VL(),
    "qwen2_5_vl": Qwen25VL(),
    "qwen3_vl": Qwen3VL(),
}


def family_of(kind: object, name: str = "This") -> Family:
    """The family that serves models of this `config.model_type`.

    Args:
        name: the checkpoint's name in a sentence.

    Raises:
        Refused: no family serves it; the sentence lists the served types.
    """
    if not isinstance(kind, str) or kind not in FAMILIES:
        served = ", ".join(f"{kind} ({family.title})" for kind, family in FAMILIES.items())
        raise Refused(
            f"{name} holds a {repr(kind)[:80]} model; models of these kinds can be opened: "
            f"{served}."
        )
    return FAMILIES[kind]


__all__ = ["FAMILIES", "Encoded", "Family", "Parts", "family_of"]
