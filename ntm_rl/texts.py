"""Texts for terminals."""


def one_line(text: str) -> str:
    r"""Returns a text with escapes, such as `\n` and `\u202e`, for line breaks, control and formatting characters."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def escaped_lines(text: str) -> str:
    """Returns a text with escapes as in `one_line`, but with its line feeds and tabs."""
    return "".join(each if each in "\n\t" else one_line(each) for each in text)
