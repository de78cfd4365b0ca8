"""What a checkpoint holds of the environments: their state where it can be had, and where their episodes stand."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import SubprocVecEnv, VecEnv, VecNormalize

from ntm_rl.agents.ppo.algorithm import MemoryPPO
from ntm_rl.envs.algorithmic.curriculum import Curriculum
from ntm_rl.envs.state import Resumable, State, array_of, part_of


def curricula(env: VecEnv) -> list[Curriculum]:
    """Returns the curricula of an environment's copies, none if it has none; one that all share comes once."""
    try:
        found = env.get_attr("curriculum")
    except AttributeError:
        return []
    return list({id(each): each for each in found if isinstance(each, Curriculum)}.values())


def reached_level(env: VecEnv) -> int | None:
    """Returns the level that an environment's curricula have reached, their mean rounded down; None without any."""
    levels = [each.level for each in curricula(env) if each.kind != "uniform"]
    return int(np.mean(levels)) if levels else None


def restore_curricula(env: VecEnv, levels: Sequence[tuple[int, list[float]]]) -> None:
    """Lets an environment's curricula go on at levels with their errors, the last of which is that of all further."""
    found = curricula(env)
    if not levels:
        return
    for index, curriculum in enumerate(found):
        curriculum.restore(*levels[min(index, len(levels) - 1)])
        if isinstance(env.unwrapped, SubprocVecEnv):  # those of its processes were copied to here
            env.set_attr("curriculum", curriculum, indices=index)


def environment_state(model: OnPolicyAlgorithm) -> State:
    """Returns the environments' state, the memories' and where episodes stand, of a model between two rollouts.

    Where the environments give no state away, or the model has not begun, only their curricula are in it.
    """
    env = model.get_env()
    if env is None:
        return {}
    levels = [{"level": each.level, "errors": each.errors} for each in curricula(env)]
    state: State = {"curricula": levels} if levels else {}
    inner = env.venv if isinstance(env, VecNormalize) else env
    if not isinstance(model, MemoryPPO) or not isinstance(inner, Resumable) or model._last_obs is None:
        return state
    copies = inner.get_state()
    if copies is None:
        return state
    assert model._last_episode_starts is not None
    state |= {
        "copies": copies,
        "n_envs": env.num_envs,
        "episode_starts": np.array(model._last_episode_starts, dtype=np.bool_),
        "memory": model.memory_state.cpu().numpy().copy(),
    }
    if isinstance(env, VecNormalize):
        state["discounted_returns"] = env.returns.copy()
    return state


def restore_environments(model: OnPolicyAlgorithm, state: Mapping[str, Any], steps: int) -> None:
    """Puts back what `environment_state` returned; nothing changes unless all of it fits.

    Where there is no state, or one of another number of copies, new episodes begin, other ones than at the start.
    The model's last observations come back as the environments gave them, not normalised.

    Args:
        model: Made with the same settings.
        state: What was saved.
        steps: Environment steps that the training has had.

    Raises:
        InputError: it is no state of these environments.
    """
    env = model.get_env()
    if env is None:
        return
    levels = [_level(each) for each in state.get("curricula", [])]
    inner = env.venv if isinstance(env, VecNormalize) else env
    n_envs = state.get("n_envs", env.num_envs)
    if n_envs != env.num_envs:
        warnings.warn(
            f"the checkpoint is of {n_envs} environments, now {env.num_envs}: new episodes begin", stacklevel=3
        )
    if "copies" in state and n_envs == env.num_envs and isinstance(model, MemoryPPO) and isinstance(inner, Resumable):
        starts = array_of(state, "episode_starts", np.zeros(env.num_envs, dtype=np.bool_))
        memory = array_of(state, "memory", model.memory_state.cpu().numpy())
        returns = array_of(state, "discounted_returns", env.returns) if isinstance(env, VecNormalize) else None
        observations = inner.set_state(part_of(state, "copies"))
        model.memory_state = torch.from_numpy(memory).to(model.device)
        model._last_episode_starts = starts
        model._last_obs = observations
        if isinstance(env, VecNormalize) and returns is not None:
            env.returns = returns
            env.old_obs = observations
    else:
        model._last_obs = None  # makes learn() reset the environments, and with them the memory
        env.seed(int(np.random.default_rng([model.seed or 0, steps]).integers(2**31)))
    restore_curricula(env, levels)


def _level(saved: Any) -> tuple[int, list[float]]:
    return int(saved["level"]), [float(error) for error in saved["errors"]]
