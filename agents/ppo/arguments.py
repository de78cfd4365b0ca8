"""The arguments of `MemoryPPO`: sizes that are "auto", and checks, so that wrong ones do not fail inside SB3."""

import math
import warnings
from collections.abc import Mapping
from importlib.util import find_spec
from numbers import Integral, Real
from typing import Any, NamedTuple

import gymnasium as gym
import torch
from gymnasium import spaces
from gymnasium.vector import VectorEnv
from stable_baselines3.common.base_class import maybe_make_env
from stable_baselines3.common.vec_env import VecEnv

from ntm_rl.agents.policy.arguments import check_flag
from ntm_rl.agents.ppo.sizes import SIZES, choose_sizes
from ntm_rl.checks import require_one_of
from ntm_rl.envs.factory import import_family
from ntm_rl.envs.modules import import_named, spec_of_class
from ntm_rl.envs.sb3.episode_limit import episode_limit
from ntm_rl.envs.wrappers.action_masks import value_counts
from ntm_rl.envs.wrappers.actions import check_action_space
from ntm_rl.errors import InputError

ENVIRONMENTS = "a Gymnasium environment, its id, a Gymnasium VectorEnv or an SB3 VecEnv"


class _Range(NamedTuple):
    low: float
    high: float = math.inf
    is_open: bool = False  # excludes `low`
    is_schedule: bool = False  # includes functions of the remaining progress
    is_optional: bool = False
    has_auto: bool = False  # includes "auto"

    def __contains__(self, value: object) -> bool:
        if isinstance(value, str):
            return self.has_auto and value == "auto"
        if value is None or callable(value):
            return self.is_optional if value is None else self.is_schedule
        if not isinstance(value, Real) or isinstance(value, bool):
            return False
        number = float(value)
        return self.low < number <= self.high or (number == self.low and not self.is_open)

    def __str__(self) -> str:
        above = f"above {self.low:g}" if self.is_open else f"of at least {self.low:g}"
        text = f"a number from {self.low:g} to {self.high:g}" if self.high < math.inf else f"a number {above}"
        text = "a number" if self.low == -math.inf else text
        text += ", or None" if self.is_optional else ""
        text += ", or 'auto'" if self.has_auto else ""
        return text + (", or a function of the remaining progress, 1 to 0" if self.is_schedule else "")


_NUMBERS = {
    "learning_rate": _Range(0, is_schedule=True),
    "gamma": _Range(0, 1),
    "gae_lambda": _Range(0, 1, has_auto=True),
    "clip_range": _Range(0, is_open=True, is_schedule=True),
    "clip_range_vf": _Range(0, is_open=True, is_schedule=True, is_optional=True),
    "ent_coef": _Range(-math.inf),
    "vf_coef": _Range(0),
    "max_grad_norm": _Range(0, is_open=True),
    "target_kl": _Range(0, is_open=True, is_optional=True),
}
_HINTS = {"max_grad_norm": "; float('inf') disables clipping"}
# Lowest value, and the other valid values.
_SIZES: dict[str, tuple[int, list[str | None]]] = {
    "n_steps": (1, ["auto"]),
    "n_epochs": (1, ["auto"]),
    "batch_size": (1, ["auto", None]),
    "sequence_length": (1, ["auto", None]),
    "sde_sample_freq": (-1, []),
}


def check_hyperparameters(model: Any) -> None:
    """Checks the hyperparameters of an algorithm.

    Converts NumPy's floats to Python's, as SB3's schedules need, and replaces sizes that are "auto".

    Raises:
        InputError: a value of a wrong type or out of range, or no environment.
    """
    if not hasattr(model, "observation_space"):
        raise InputError(f"env = None: must be {ENVIRONMENTS}")
    if not isinstance(model.policy_kwargs, Mapping):
        raise InputError(f"policy_kwargs = {model.policy_kwargs!r}: must be a dict of keyword arguments")
    for key, (low, others) in _SIZES.items():
        size = getattr(model, key)
        is_number = isinstance(size, Integral) and not isinstance(size, bool)
        if not (size >= low if is_number else (size is None or isinstance(size, str)) and size in others):
            or_others = "".join(f", or {other!r}" for other in others)
            raise InputError(f"{key} = {size!r}: must be an integer of at least {low}{or_others}")
    for key, valid in _NUMBERS.items():
        value = getattr(model, key)
        if value not in valid:
            raise InputError(f"{key} = {value!r}: must be {valid}{_HINTS.get(key, '')}{_zoo_schedule(value)}")
        if isinstance(value, Real) and not isinstance(value, int):
            setattr(model, key, float(value))
    if model.seed is not None:
        model.seed = _seed(model.seed)
    _check_choices(model)
    _replace_auto_sizes(model)


def _check_choices(model: Any) -> None:
    for key in ("normalize_advantage", "use_sde", "recompute_states"):
        check_flag(key, getattr(model, key))
    if model.action_masks not in (True, False, "auto"):
        raise InputError(f"action_masks = {model.action_masks!r}: must be True, False or 'auto'")
    require_one_of(("start", "end"), schedule_at=model.schedule_at)
    if model.action_masks is True:
        _require_maskable(model.action_space)


def _replace_auto_sizes(model: Any) -> None:
    """Replaces the sizes of an algorithm that are "auto" by numbers that fit its environments."""
    sizes = {key: getattr(model, key) for key in SIZES}
    if "auto" not in sizes.values():
        return
    sizes = {key: int(size) if isinstance(size, Integral) else size for key, size in sizes.items()}
    limit = None if model.env is None else episode_limit(model.env)
    chosen = choose_sizes(limit, n_envs=model.all_envs, **sizes)
    for key in SIZES:
        setattr(model, key, getattr(chosen, key))


def check_learning(total_timesteps: Any, env: VecEnv | None) -> None:
    """Checks the arguments of `learn`, and that the model has an environment.

    Raises:
        InputError: not a number or below 0; no environment.
    """
    if env is None:
        raise InputError("env = None: set one with MemoryPPO.load(path, env=env) or model.set_env(env)")
    if total_timesteps not in _Range(0):
        raise InputError(f"total_timesteps = {total_timesteps!r}: must be a number of at least 0")


def _seed(seed: Any) -> int:
    if not isinstance(seed, Integral) or not 0 <= int(seed) < 2**32:
        raise InputError(f"seed = {seed!r}: must be an integer from 0 to 4294967295, or None")
    return int(seed)


def check_rollout_steps(n_steps: int, expected: int) -> None:
    """Raises an `InputError` if the steps of a rollout have changed since the model was made."""
    if n_steps != expected:
        raise InputError(
            f"n_steps = {n_steps}: must be {expected}, as when the model was made; to change it use "
            "MemoryPPO.load(path, env=env, n_steps=...)"
        )


def check_device(device: Any) -> None:
    """Checks the name of a device, and warns if SB3 falls back to the CPU because CUDA is not available.

    Raises:
        InputError: a name that torch does not know.
    """
    if device == "auto":
        return
    try:
        kind = torch.device(device).type
    except (RuntimeError, TypeError) as error:
        raise InputError(f"device = {device!r}: must be auto, cpu, cuda, cuda:N or mps") from error
    if kind == "cuda" and not torch.cuda.is_available():
        warnings.warn(
            f"device = {str(device)!r}: torch sees no CUDA device, so the CPU is used; use cpu or auto", stacklevel=3
        )


def make_by_id(env_id: str) -> Any:
    """Makes an environment as SB3 does, also of this package's families of ids, and of a class: `module:Class`.

    Raises:
        InputError: a missing package, module or class.
    """
    import_family(env_id)
    import_named(env_id)
    spec = spec_of_class(env_id)
    return maybe_make_env(env_id, verbose=0) if spec is None else gym.make(spec)


def made_env(env: Any) -> Any:
    """Returns the environment given to an algorithm, made if it is an id.

    Raises:
        InputError: not an environment.
    """
    if isinstance(env, str):
        return make_by_id(env)
    if isinstance(env, (gym.Env, VecEnv, VectorEnv)):
        return env
    hint = ""
    if not isinstance(env, type) and hasattr(env, "step"):
        if find_spec("gym") is not None:
            return env  # SB3 converts environments of the old gym
        hint = (
            f"; derive {type(env).__name__} from gymnasium.Env (one of the old gym needs the packages gym and shimmy)"
        )
    elif isinstance(env, type):
        hint = f"; make one: {env.__name__}()"
    elif callable(env):
        hint = "; call the function, or use DummyVecEnv([function])"
    elif isinstance(env, (list, tuple)):
        hint = "; for several environments use DummyVecEnv with a list of functions that make them"
    raise InputError(f"env = {env!r}: must be {ENVIRONMENTS}{hint}")


def check_spaces(env: Any) -> None:
    """Checks that SB3 can store the observations of an environment, and that policies support its actions.

    Raises:
        InputError: an unsupported or an empty observation space, or an unsupported action space.
    """
    action_space = getattr(env, "single_action_space", getattr(env, "action_space", None))
    if isinstance(action_space, spaces.Space):
        check_action_space(action_space)
    space = getattr(env, "single_observation_space", getattr(env, "observation_space", None))
    parts: list[Any] = list(space.spaces.values()) if isinstance(space, spaces.Dict) else []
    for part in parts or [space]:
        has_shape = isinstance(part, (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary))
        is_empty = (part is space and isinstance(part, spaces.Dict)) or (has_shape and 0 in part.shape)
        if is_empty or not has_shape:
            problem = "is empty" if is_empty else "not supported"
            raise InputError(
                f"observation space = {' '.join(str(part).split())[:200]}: {problem}; valid are Box, Discrete, "
                "MultiDiscrete, MultiBinary and a Dict of these; convert it with gymnasium.wrappers.FlattenObservation "
                "or TransformObservation"
            )


def _zoo_schedule(value: Any) -> str:
    if not isinstance(value, str) or not value.startswith("lin_"):
        return ""
    start = value.removeprefix("lin_")
    return f"; RL Zoo's {value!r} is stable_baselines3.common.utils.LinearSchedule({start}, 0, 1)"


def _require_maskable(space: spaces.Space[Any]) -> None:
    try:
        value_counts(space)
    except InputError as error:
        raise InputError(f"action_masks = True: {error}") from error
