"""Whether torch's elastic launcher started this process; without importing torch."""

import os


def is_launched() -> bool:
    """Whether torchrun or `processes=N` started this process as one of several ranks."""
    return "TORCHELASTIC_RUN_ID" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


def is_first() -> bool:
    """Whether this is the only process of a training, or its first rank."""
    return not is_launched() or os.environ.get("RANK") == "0"
