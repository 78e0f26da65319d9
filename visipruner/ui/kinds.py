"""Which values the page's components may send. Gradio checks few, with messages of its own."""

from __future__ import annotations

import gradio as gr

from visipruner.errors import Refused
from visipruner.inputs import check_choice
from visipruner.ui import text

LARGEST = 2**53  # browsers and JSON hold whole numbers exactly up to here


def check(block: gr.blocks.Block, value):
    """Refuse a value that this component of our page never sends. None (empty) is allowed.

    Raises:
        Refused: one sentence, with the input's label if it has one.
    """
    check_plain(value)
    if value is None:
        return
    name = f"“{block.label}”" if getattr(block, "label", None) else text.A_VALUE
    if isinstance(block, gr.Dropdown | gr.Radio):
        known = [choice for _, choice in block.choices]
        several = isinstance(block, gr.Dropdown) and block.multiselect
        if several and not isinstance(value, list):
            raise Refused(text.NO_LIST.format(name=name))
        for one in value if several else [value]:
            check_choice(name, one, known)
    elif isinstance(block, gr.Number | gr.Slider):
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise Refused(text.NO_NUMBER_GIVEN.format(name=name))
    elif isinstance(block, gr.Checkbox):
        check_choice(name, value, (True, False))
    elif _holds_words(block) and not isinstance(value, str):
        raise Refused(text.NO_WORDS.format(name=name))


def check_plain(value):
    """Refuse what cannot be sent back to a browser: half a surrogate pair, NaN or infinity.

    Raises:
        Refused: one sentence.
    """
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise Refused(text.HALF_A_CHARACTER) from None
    elif isinstance(value, int | float) and not abs(value) <= LARGEST:  # also true for NaN
        raise Refused(text.TOO_LARGE)
    elif isinstance(value, dict):
        for part in (*value, *value.values()):
            check_plain(part)
    elif isinstance(value, list):
        for part in value:
            check_plain(part)


def _holds_words(block) -> bool:
    """Does this component hold plain text? Only HTML with its own template holds anything else."""
    if isinstance(block, gr.HTML):
        return "html_template" not in block.constructor_args
    return isinstance(block, gr.Textbox | gr.Code)
