"""The error for invalid input, suggestions of valid names, and names of others as text of one line."""

from collections.abc import Iterable
from difflib import get_close_matches


class InputError(ValueError):
    """Invalid input of the user; the message has the key, the value and the valid values.

    The command line prints it without a traceback and exits with code 2.

    Attributes:
        is_reported: Whether another process of a data-parallel training reports it.
    """

    is_reported = False


def printable(text: str) -> str:
    """Returns a text with its line breaks, control and invisible characters as escape sequences."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def did_you_mean(name: str, valid: Iterable[str]) -> str:
    """Returns `" Did you mean X?"` with the valid name closest to `name`, or an empty string."""
    names = {each.lower(): each for each in valid}
    nearest = get_close_matches(name.lower(), list(names), n=1, cutoff=0.5)
    return f" Did you mean {names[nearest[0]]}?" if nearest else ""
