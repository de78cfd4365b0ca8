"""The state of a model's vector environment in a checkpoint: sub-environments, unfinished episodes, curricula."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import SubprocVecEnv, VecEnv, VecNormalize

from ntm_rl.agents.parallel.ranks import SINGLE, Ranks
from ntm_rl.agents.ppo.algorithm import MemoryPPO
from ntm_rl.agents.ppo.sharing import seed_environments, seed_host_generators
from ntm_rl.agents.storage.random_states import check_host_states, host_states, restore_host_states
from ntm_rl.envs.algorithmic.curriculum import Curriculum
from ntm_rl.envs.sb3.attributes import attributes
from ntm_rl.envs.sb3.seeding import spawn_seed
from ntm_rl.envs.state import Resumable, State, array_of, part_of
from ntm_rl.envs.wrappers.action_masks import MaskFormat, Masks


def curricula(env: VecEnv) -> list[Curriculum]:
    """Returns the curricula of the sub-environments, a shared one once; empty without any."""
    found = attributes(env, "curriculum")
    return list({id(each): each for each in found if isinstance(each, Curriculum)}.values())


def reached_level(env: VecEnv, ranks: Ranks = SINGLE) -> int | None:
    """Returns the mean level of the curricula, of all given ranks, rounded down; None without any."""
    own = [each.level for each in curricula(env) if each.kind != "uniform"]
    levels = [level for each in ranks.gather_objects(own) for level in each]
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


def ranks_of(model: BaseAlgorithm) -> Ranks:
    """Returns the ranks of a model; one, if it is not a `MemoryPPO`."""
    return model.ranks if isinstance(model, MemoryPPO) else SINGLE


def collect_vec_env_states(model: OnPolicyAlgorithm) -> State | None:
    """Returns the environment state for a checkpoint, on the first rank only; the others get None.

    With several ranks it holds the curricula of all environments, and the state and generators of each rank.
    """
    state, ranks = get_vec_env_state(model), ranks_of(model)
    if ranks.size == 1:
        return state
    states = ranks.collect({**state, "generators": host_states()})
    if states is None:
        return None
    levels = [level for each in states for level in each.pop("curricula", [])]
    return {"curricula": levels, "ranks": {str(rank): each for rank, each in enumerate(states)}}


def get_vec_env_state(model: OnPolicyAlgorithm) -> State:
    """Returns the state of a model's vector environment, its memory states, episode starts and action masks.

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
    if model._masks is not None:
        state["action_masks"] = model._masks.copy()
    if isinstance(env, VecNormalize):
        state["discounted_returns"] = env.returns.copy()
    return state


def restore_vec_env(model: OnPolicyAlgorithm, state: Mapping[str, Any], steps: int) -> None:
    """Restores the result of `collect_vec_env_states`; checks all of it before anything changes.

    Without a state, or with one of another `n_envs` or number of ranks, new episodes begin, seeded differently from
    those at the start. `model._last_obs` is restored without normalisation.

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
    ranks = ranks_of(model)
    levels = [_level(each) for each in state.get("curricula", [])]
    if len(levels) == env.num_envs * ranks.size:
        levels = levels[ranks.rank * env.num_envs :]
    inner = env.venv if isinstance(env, VecNormalize) else env
    saved = state.get("ranks", {"0": state})
    state = saved.get(str(ranks.rank), {})
    if len(saved) == ranks.size > 1:
        check_host_states(state["generators"])
    n_envs = state.get("n_envs", env.num_envs)
    is_complete = "sub_environments" in state and len(saved) == ranks.size and n_envs == env.num_envs
    if "sub_environments" in saved["0"] and not is_complete and ranks.is_first:
        counts = f"{_count(len(saved), saved['0']['n_envs'])}, the model {_count(ranks.size, env.num_envs)}"
        warnings.warn(f"the checkpoint has {counts}: new episodes begin", stacklevel=3)
    if is_complete and isinstance(model, MemoryPPO) and isinstance(inner, Resumable):
        starts = array_of(state, "episode_starts", np.zeros(env.num_envs, dtype=np.bool_))
        memory = array_of(state, "memory", model.memory_state.cpu().numpy())
        returns = array_of(state, "discounted_returns", env.returns) if isinstance(env, VecNormalize) else None
        masks = _masks_of(state, env)
        observations = inner.set_state(part_of(state, "sub_environments"))
        model.memory_state = torch.from_numpy(memory).to(model.device)
        model._last_episode_starts, model._masks = starts, masks
        model._last_obs = observations
        if isinstance(env, VecNormalize) and returns is not None:
            env.returns = returns
            env.old_obs = observations
    else:
        model._last_obs = None  # learn() then resets the environments and the memory
        seed_environments(ranks, env, int(np.random.default_rng([model.seed or 0, steps]).integers(2**31)))
    restore_curricula(env, levels)


def restore_rank_generators(model: OnPolicyAlgorithm, state: Mapping[str, Any], steps: int) -> None:
    """Restores or reseeds Python's and NumPy's generators on ranks other than the first; arguments as before."""
    ranks, saved = ranks_of(model), state.get("ranks", {})
    if ranks.is_first:
        return
    if len(saved) == ranks.size:
        restore_host_states(saved[str(ranks.rank)]["generators"])
    else:
        seed_host_generators(spawn_seed(steps, ranks.rank))


def _masks_of(state: Mapping[str, Any], env: VecEnv) -> Masks | None:
    if "action_masks" not in state:
        return None
    size = MaskFormat(env.action_space).size
    return array_of(state, "action_masks", np.zeros((env.num_envs, size), dtype=np.bool_))


def _count(ranks: int, n_envs: int) -> str:
    return f"{n_envs} sub-environments" if ranks == 1 else f"{ranks} ranks of {n_envs} sub-environments"


def _level(saved: Any) -> tuple[int, list[float]]:
    return int(saved["level"]), [float(error) for error in saved["errors"]]
