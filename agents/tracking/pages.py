"""HTML pages as values of SB3's logger."""

from dataclasses import dataclass

ONLY_WANDB = ("stdout", "log", "json", "csv", "tensorboard")  # the outputs that take no page


@dataclass(frozen=True)
class HtmlPage:
    """A self-contained HTML page.

    Attributes:
        content: The whole file.
    """

    content: str
