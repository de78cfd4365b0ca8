"""Tries an environment and a policy before a training writes any file."""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray

from ntm_rl.agents.policy.files import load_agent, save_agent
from ntm_rl.agents.ppo.algorithm import MemoryPPO
from ntm_rl.agents.storage.files import StorageError, WriteError
from ntm_rl.agents.storage.random_states import random_states, restore_random_states
from ntm_rl.envs.factory import EnvSettings
from ntm_rl.envs.sb3.action_masks import ActionMaskReader
from ntm_rl.envs.sb3.episode_limit import episode_limit
from ntm_rl.envs.sb3.making import make_vec_env
from ntm_rl.envs.wrappers.action_masks import MaskFormat, Masks
from ntm_rl.errors import InputError


class Probe(NamedTuple):
    """What a training must know of its environment.

    Attributes:
        episode_limit: The limit of an episode's steps; see `ntm_rl.envs.sb3.episode_limit`.
        has_masks: Whether to use action masks.
    """

    episode_limit: int | None
    has_masks: bool


def probe_environment(settings: EnvSettings, seed: int) -> Probe:
    """Makes an environment, and resets and steps it once; `Guarded` checks the results.

    Raises:
        InputError: it cannot be made, or violates Gymnasium's interface or its own spaces.
        ForeignError: its own code raised an error.
    """
    with _preserved_random_states(torch.device("cpu")):
        env = make_vec_env(settings, 1, seed)
        try:
            limit = episode_limit(env)
            env.reset()
            reader = ActionMaskReader(env, settings.action_masks)
            masks = reader.reset()
            *_, dones, infos = env.step(_random_action(env.action_space, masks, seed))
            reader.step(infos, dones)
        finally:
            env.close()
    return Probe(limit, masks is not None)


def _random_action(space: spaces.Space[Any], masks: Masks | None, seed: int) -> NDArray[Any]:
    """Returns an action of one environment, `[1, ...]`."""
    if masks is not None:
        return MaskFormat(space).sample(masks, np.random.default_rng(seed))
    space.seed(seed)
    return np.array([space.sample()])


def probe_agent(model: MemoryPPO, env_id: str) -> None:
    """Computes one action for a sample of the observation space, and saves and loads the agent.

    Raises:
        InputError: one of these fails.
    """
    with _preserved_random_states(model.device), TemporaryDirectory(prefix="ntm-rl-") as folder:
        _act(model, env_id)
        try:
            save_agent(model.policy, Path(folder, "agent"), model.get_vec_normalize_env())
            load_agent(Path(folder, "agent"), "cpu")
        except WriteError:  # in the temporary folder, not in that of the run
            return
        except (InputError, StorageError) as error:
            raise InputError(f"env.id = {env_id!r}: its agent could not be saved and loaded again: {error}") from error


def _act(model: MemoryPPO, env_id: str) -> None:
    policy, space = model.policy, deepcopy(model.observation_space)
    space.seed(0)
    sample = space.sample()
    try:
        observations, _ = policy.obs_to_tensor(sample)
        policy.set_training_mode(False)
        with torch.no_grad():
            policy.step(observations, policy.initial_state(1), torch.ones(1, dtype=torch.bool, device=policy.device))
    except (RuntimeError, TypeError, ValueError, LookupError) as error:
        text = f"{type(error).__name__}: {error}"
        raise InputError(
            f"env.id = {env_id!r}: the policy cannot read its observation space {space}: {text}"
        ) from error


@contextmanager
def _preserved_random_states(device: torch.device) -> Iterator[None]:
    """Restores the random states at the end of the context."""
    states = random_states(device)
    try:
        yield
    finally:
        restore_random_states(*states, device)
