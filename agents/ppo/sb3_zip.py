"""Agents out of Stable-Baselines3's zip files, which only trust can open: loading one runs whatever code it holds."""

import json
import zipfile
from pathlib import Path

from sb3_contrib import RecurrentPPO

from ntm_rl.agents.policy.files import save_agent
from ntm_rl.agents.policy.policies import MlpNtmPolicy
from ntm_rl.agents.ppo.algorithm import MemoryPPO
from ntm_rl.errors import InputError


def convert(file: Path, folder: Path, *, trust: bool) -> None:
    """Turns an SB3 zip of an agent with a memory core into files that anybody can load safely.

    Args:
        file: What `MemoryPPO.save` or `RecurrentPPO.save` wrote.
        folder: Where the agent goes; must not exist.
        trust: Whether the caller trusts whoever made the file; nothing of it is unpickled otherwise.

    Raises:
        InputError: no trust, no such file, another kind of agent, or a folder that exists.
    """
    if not file.is_file():
        raise InputError(f"{file}: no such file")
    if not trust:
        raise InputError(
            f"{file}: loading an SB3 zip runs whatever code is in it; say --trust if you trust whoever made it"
        )
    if folder.exists():
        raise InputError(f"{folder}: exists already; choose another name or delete it")
    try:
        with zipfile.ZipFile(file) as archive:
            is_ours = "sequence_length" in json.loads(archive.read("data"))
        model = (MemoryPPO if is_ours else RecurrentPPO).load(file, device="cpu")
    except Exception as error:  # whatever a strange file makes the unpickler raise
        raise InputError(f"{file}: not an agent that SB3 can load: {error}") from error
    if not isinstance(model.policy, MlpNtmPolicy):
        raise InputError(f"{file}: its policy {type(model.policy).__name__} has no memory core of ntm-rl")
    save_agent(model.policy, folder)
