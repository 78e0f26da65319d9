"""The one error whose words a person reads."""


class Refused(ValueError):
    """Something handed in cannot be used. Its text is one plain sentence, shown as it is.

    Any other exception is a fault of this program: it is logged, and its text is not shown.
    """


MOST_QUOTED = 80  # characters of what was handed in that a sentence may repeat


def short(words: str) -> str:
    """As much of the words as a sentence may quote."""
    return words if len(words) <= MOST_QUOTED else words[: MOST_QUOTED - 1] + "…"


def quoted(value) -> str:
    """A value as Python writes it, as much as a sentence may quote."""
    return short(repr(value))
