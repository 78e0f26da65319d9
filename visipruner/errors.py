"""The one error whose words a person reads."""


class Refused(ValueError):
    """Something handed in cannot be used. Its text is one plain sentence, shown as it is.

    Any other exception is a fault of this program: it is logged, and its text is not shown.
    """
