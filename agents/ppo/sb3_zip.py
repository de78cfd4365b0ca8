"""Conversion of agents from Stable-Baselines3's zip files; loading a zip file runs any code in it."""

import json
import zipfile
from pathlib import Path

from sb3_contrib import RecurrentPPO

from ntm_rl.agents.policy.files import save_agent
from ntm_rl.agents.policy.policies import MlpNtmPolicy
from ntm_rl.agents.ppo.algorithm import MemoryPPO
from ntm_rl.errors import InputError


def convert(file: Path, folder: Path, *, trust: bool) -> None:
    """Converts an SB3 zip file of an agent with a memory core to files that are safe to load.

    Args:
        file: A file of `MemoryPPO.save` or `RecurrentPPO.save`.
        folder: Folder for the agent; must not exist.
        trust: Whether the caller trusts the author of the file; it is not unpickled otherwise.

    Raises:
        InputError: no trust, no such file, an agent without a memory core, or a folder that exists.
    """
    if not file.is_file():
        raise InputError(f"{file}: no such file")
    if not trust:
        raise InputError(f"{file}: loading an SB3 zip file runs any code in it; pass --trust if you trust its author")
    if folder.exists():
        raise InputError(f"{folder}: exists already; choose another name or delete it")
    try:
        with zipfile.ZipFile(file) as archive:
            is_ours = "sequence_length" in json.loads(archive.read("data"))
        model = (MemoryPPO if is_ours else RecurrentPPO).load(file, device="cpu")
    except Exception as error:  # the unpickler may raise anything
        raise InputError(f"{file}: not an agent that SB3 can load: {error}") from error
    if not isinstance(model.policy, MlpNtmPolicy):
        raise InputError(f"{file}: its policy {type(model.policy).__name__} has no memory core of ntm-rl")
    save_agent(model.policy, folder)
