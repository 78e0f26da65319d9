"""The one error whose words a person reads."""


class Refused(ValueError):
    """An input cannot be used. The error's text is one plain sentence, shown unchanged.

    Any other exception is a bug of this program: it is logged, and its text is not shown.
    """


MOST_QUOTED = 80  # characters of an input that a sentence may quote


def short(words: str) -> str:
    """The words, cut to what a sentence may quote."""
    return words if len(words) <= MOST_QUOTED else words[: MOST_QUOTED - 1] + "…"


def quoted(value) -> str:
    """The repr() of a value, cut to what a sentence may quote."""
    return short(repr(value))
