"""Environment variables that a training reads."""

import os
import re
from typing import Literal

from ntm_rl.errors import InputError

WandbMode = Literal["online", "offline", "disabled"]


def check_environment_variables() -> None:
    """Raises an `InputError` for the first variable with an invalid value."""
    wandb_mode()
    url = os.environ.get("WANDB_BASE_URL", "https://")
    if not url.startswith(("http://", "https://")):
        raise InputError(f"WANDB_BASE_URL = {without_passwords(f'//{url}')[2:]!r}: must begin with http:// or https://")
    threads = os.environ.get("OMP_NUM_THREADS", "1")
    if not all(part.strip().isdecimal() and int(part) > 0 for part in threads.split(",")):
        raise InputError(f"OMP_NUM_THREADS = {threads!r}: must be a number of threads from 1")


def wandb_mode() -> WandbMode | None:
    """Returns the mode in `WANDB_MODE`, None if it is not set.

    Raises:
        InputError: an unknown mode.
    """
    mode = os.environ.get("WANDB_MODE", "")
    match {"dryrun": "offline", "run": "online"}.get(mode, mode):
        case "online" | "offline" | "disabled" as chosen:
            return chosen
        case "":
            return None
    raise InputError(f"WANDB_MODE = {mode!r}: must be online, offline or disabled")


def without_passwords(text: str) -> str:
    """Returns a text without the user names and passwords of the URLs in it."""
    return re.sub(r"//[^/\s'\"]*@", "//***@", text)
