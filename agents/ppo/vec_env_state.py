"""The state of a model's vector environment in a checkpoint: sub-environments, unfinished episodes, curricula."""

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
    """Returns the curricula of the sub-environments, a shared one once; empty without any."""
    try:
        found = env.get_attr("curriculum")
    except AttributeError:
        return []
    return list({id(each): each for each in found if isinstance(each, Curriculum)}.values())


def reached_level(env: VecEnv) -> int | None:
    """Returns the mean level of the curricula, rounded down; None without any."""
    levels = [each.level for each in curricula(env) if each.kind != "uniform"]
    return int(np.mean(levels)) if levels else None


def restore_curricula(env: VecEnv, levels: Sequence[tuple[int, list[float]]]) -> None:
    """Restores the curricula to levels with their errors; with fewer levels than curricula, the last is repeated."""
    found = curricula(env)
    if not levels:
        return
    for index, curriculum in enumerate(found):
        curriculum.restore(*levels[min(index, len(levels) - 1)])
        if isinstance(env.unwrapped, SubprocVecEnv):  # `curricula` returned pickled copies
            env.set_attr("curriculum", curriculum, indices=index)


def get_vec_env_state(model: OnPolicyAlgorithm) -> State:
    """Returns the state of a model's vector environment, its memory states and its episode starts.

    Call it between two rollouts. Without `get_state` in the environments, or before the first rollout, the result
    contains only the curricula.
    """
    env = model.get_env()
    if env is None:
        return {}
    levels = [{"level": each.level, "errors": each.errors} for each in curricula(env)]
    state: State = {"curricula": levels} if levels else {}
    inner = env.venv if isinstance(env, VecNormalize) else env
    if not isinstance(model, MemoryPPO) or not isinstance(inner, Resumable) or model._last_obs is None:
        return state
    sub_environments = inner.get_state()
    if sub_environments is None:
        return state
    assert model._last_episode_starts is not None
    state |= {
        "sub_environments": sub_environments,
        "n_envs": env.num_envs,
        "episode_starts": np.array(model._last_episode_starts, dtype=np.bool_),
        "memory": model.memory_state.cpu().numpy().copy(),
    }
    if isinstance(env, VecNormalize):
        state["discounted_returns"] = env.returns.copy()
    return state


def restore_vec_env(model: OnPolicyAlgorithm, state: Mapping[str, Any], steps: int) -> None:
    """Restores the result of `get_vec_env_state`; checks all of it before anything changes.

    Without a state, or with one of another `n_envs`, new episodes begin, seeded differently from those at the start.
    `model._last_obs` is restored without normalisation.

    Args:
        model: A model made with the same settings.
        state: The saved state.
        steps: Environment steps of the training so far.

    Raises:
        InputError: not a state of these environments.
    """
    env = model.get_env()
    if env is None:
        return
    levels = [_level(each) for each in state.get("curricula", [])]
    inner = env.venv if isinstance(env, VecNormalize) else env
    n_envs = state.get("n_envs", env.num_envs)
    if n_envs != env.num_envs:
        warnings.warn(
            f"the checkpoint has {n_envs} sub-environments, the model {env.num_envs}: new episodes begin", stacklevel=3
        )
    is_complete = "sub_environments" in state and n_envs == env.num_envs
    if is_complete and isinstance(model, MemoryPPO) and isinstance(inner, Resumable):
        starts = array_of(state, "episode_starts", np.zeros(env.num_envs, dtype=np.bool_))
        memory = array_of(state, "memory", model.memory_state.cpu().numpy())
        returns = array_of(state, "discounted_returns", env.returns) if isinstance(env, VecNormalize) else None
        observations = inner.set_state(part_of(state, "sub_environments"))
        model.memory_state = torch.from_numpy(memory).to(model.device)
        model._last_episode_starts = starts
        model._last_obs = observations
        if isinstance(env, VecNormalize) and returns is not None:
            env.returns = returns
            env.old_obs = observations
    else:
        model._last_obs = None  # learn() then resets the environments and the memory
        env.seed(int(np.random.default_rng([model.seed or 0, steps]).integers(2**31)))
    restore_curricula(env, levels)


def _level(saved: Any) -> tuple[int, list[float]]:
    return int(saved["level"]), [float(error) for error in saved["errors"]]
