"""Makes a Gymnasium environment by id and wraps it according to `EnvSettings`."""

import math
import warnings
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import Annotated, Any, Literal

import gymnasium as gym
from gymnasium import spaces

from ntm_rl.envs.batched.minigrid_memory import MINIGRID_MEMORY, check_size
from ntm_rl.envs.foreign import ForeignError, describe, is_in_user_code, is_wrong_call
from ntm_rl.envs.modules import import_named, spec_of_class, split
from ntm_rl.envs.names import FAMILIES, is_legacy_atari, suggest_id
from ntm_rl.envs.wrappers.actions import RescaledAction, check_action_space
from ntm_rl.envs.wrappers.guard import guard
from ntm_rl.envs.wrappers.legal_moves import LEGAL_MOVES, LegalMoves
from ntm_rl.envs.wrappers.masking import MaskVelocity
from ntm_rl.envs.wrappers.missions import Mission
from ntm_rl.envs.wrappers.observations import MAX_ELEMENTS, is_plain, make_readable
from ntm_rl.envs.wrappers.previous_step import PreviousStep
from ntm_rl.errors import InputError

Vectorization = Literal["auto", "native", "sync", "subprocess"]
UseMasks = bool | Literal["auto"]


@dataclass(frozen=True)
class EnvSettings:
    """An environment and its wrappers; the annotations describe the fields."""

    id: Annotated[str, "Gymnasium id; `module:id` imports the module first, `module:Class` names a class in it."]
    kwargs: Annotated[dict[str, Any], "Keyword arguments of gymnasium.make."] = field(default_factory=dict)
    mask_velocity: Annotated[bool, "Hide the velocities of a classic control task."] = False
    previous_action: Annotated[bool, "Add the previous action to the observation."] = False
    previous_reward: Annotated[bool, "Add the previous reward to the observation."] = False
    mission: Annotated[
        Mission,
        "Add MiniGrid's and BabyAI's mission to the observation, as words: if it may change (auto), always, never.",
    ] = "auto"
    action_masks: Annotated[
        UseMasks,
        "Exclude actions that the environment's action_masks() or info['action_mask'] excludes: if it has one (auto), "
        "always (true: also adds masks to POPGym's MineSweeper, Battleship and Concentration), never.",
    ] = "auto"
    rescale_action: Annotated[bool, "Scale actions from [-1, 1] to the bounds of a Box."] = False
    max_episode_steps: Annotated[int | None, "Time limit instead of the environment's own; null: its own."] = None
    vectorization: Annotated[
        Vectorization,
        "native: one batched environment; sync: one by one; subprocess: a process each; auto: native where possible.",
    ] = "auto"
    worker_timeout: Annotated[float, "Seconds that a step may take with vectorization subprocess."] = 300.0
    restart_workers: Annotated[bool, "Restart an environment's process that crashed or hangs; false: fail."] = False
    normalize_observation: Annotated[bool, "Normalise observations by running statistics."] = False
    normalize_reward: Annotated[bool, "Divide rewards by the running deviation of the discounted return."] = False
    path: Annotated[str | None, "Folder of the module in `module:id`; null: installed or in the current folder."] = None


def make_env(settings: EnvSettings, render_mode: str | None = None, index: int | None = None) -> gym.Env[Any, Any]:
    """Makes an environment whose spaces a policy supports.

    Args:
        settings: The environment and its wrappers.
        render_mode: Render mode of `gymnasium.make`.
        index: Index of the sub-environment, for error messages.

    Raises:
        InputError: unknown id, missing package, wrong keyword arguments, or unsupported spaces.
        ForeignError: the environment's own code raised an error.
    """
    settings = with_time_limit(settings)
    import_family(settings.id)
    import_named(settings.id, settings.path)
    label = f"env.id = {settings.id!r}"
    env = guard(_make(settings, render_mode), label, index)
    if has_added_masks(settings):
        env = LegalMoves(env)
    if settings.mask_velocity:
        env = MaskVelocity(env)
    try:
        env = make_readable(env, settings.mission)
    except InputError as error:
        raise InputError(f"{label}: {error}") from error
    check_spaces(settings.id, env.observation_space, env.action_space)
    if settings.rescale_action:
        env = RescaledAction(env)
    if settings.previous_action or settings.previous_reward:
        env = PreviousStep(env, settings.previous_action, settings.previous_reward)
    return env


def has_added_masks(settings: EnvSettings) -> bool:
    """Whether `LegalMoves`, or an option of the native environment, adds the masks that the settings require."""
    return settings.action_masks is True and settings.id in LEGAL_MOVES


def with_time_limit(settings: EnvSettings) -> EnvSettings:
    """Returns settings with a time limit in the keyword arguments moved to `max_episode_steps`.

    Raises:
        InputError: the time limit is not a positive integer.
    """
    limit = settings.kwargs.get("max_episode_steps")
    if limit is not None and settings.max_episode_steps not in (None, limit):
        warnings.warn(
            f"env.kwargs.max_episode_steps = {limit}: env.max_episode_steps = {settings.max_episode_steps} is used",
            stacklevel=3,
        )
    if "max_episode_steps" in settings.kwargs:
        kwargs = {key: value for key, value in settings.kwargs.items() if key != "max_episode_steps"}
        settings = replace(settings, kwargs=kwargs, max_episode_steps=settings.max_episode_steps or limit)
    check_time_limit(settings)
    return settings


def check_time_limit(settings: EnvSettings) -> None:
    """Raises an `InputError` for a time limit that is not a positive integer."""
    limit = settings.max_episode_steps
    if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool) or limit < 1):
        raise InputError(f"env.max_episode_steps = {limit}: must be at least 1, or null for the environment's own")


def rom_of(env_id: str) -> str:
    """Returns the name of the ROM of an Atari id such as `ALE/MsPacman-v5`.

    Raises:
        InputError: ALE is not installed or has no such id.
    """
    import_family(env_id)
    try:
        return str(gym.spec(env_id).kwargs["game"])
    except gym.error.Error as error:
        raise InputError(f"env.id = {env_id!r}: {_unknown(env_id, error)}") from error


def _make(settings: EnvSettings, render_mode: str | None) -> gym.Env[Any, Any]:
    spec = spec_of_class(settings.id) or settings.id
    try:
        if is_legacy_atari(settings.id):  # registered by ALE, but with raw frames
            raise gym.error.UnregisteredEnv(f"{settings.id} is not supported.")
        env = gym.make(
            spec,
            max_episode_steps=settings.max_episode_steps,
            disable_env_checker=True,  # slow, and warns about third-party environments
            **{**settings.kwargs, **({} if render_mode is None else {"render_mode": render_mode})},
        )
        if settings.id in MINIGRID_MEMORY:
            check_size(env)  # MiniGrid itself fails only at the first reset
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # PyO3's panics, for one, are not Exceptions
        raise _constructor_error(settings, error) from error
    check_has_spaces(f"env.id = {settings.id!r}", env)
    return env


def _constructor_error(settings: EnvSettings, error: BaseException) -> InputError:
    """Returns the error to raise for an error of `gymnasium.make` or of the environment's constructor."""
    label = f"env.id = {settings.id!r}"
    if isinstance(error, gym.error.UnregisteredEnv):
        return InputError(f"{label}: {_unknown(settings.id, error)}")
    if isinstance(error, gym.error.DependencyNotInstalled):
        return InputError(f"{label}: {error}")
    if isinstance(error, gym.error.Error):
        return InputError(f"{label}: cannot be made: {error}")
    if isinstance(error, InputError):  # from an environment of this package
        cause = f"env.kwargs = {settings.kwargs}: invalid for {settings.id}" if settings.kwargs else label
        return InputError(f"{cause}: {error}")
    if is_wrong_call(error):
        problem = "invalid for" if settings.kwargs else "incomplete for"
        return InputError(f"env.kwargs = {settings.kwargs}: {problem} {settings.id}: {describe(error)}")
    if isinstance(error, ImportError):
        return InputError(f"{label}: cannot be imported: {describe(error)}")
    if not is_in_user_code(error):  # Gymnasium's own: a malformed id, a missing entry point
        return InputError(f"{label}: cannot be made: {error}")
    if settings.kwargs and isinstance(error, Exception) and not isinstance(error, OSError):
        return InputError(
            f"{label}, env.kwargs = {settings.kwargs}: its constructor raised an error: {describe(error)}"
        )
    return ForeignError(f"{label}: its constructor raised an error: {describe(error)}")


def check_has_spaces(label: str, env: gym.Env[Any, Any]) -> None:
    """Raises an `InputError` if the constructor set no spaces."""
    for name in ("observation_space", "action_space"):
        space = getattr(env, name, None)
        if not isinstance(space, spaces.Space):
            raise InputError(f"{label}: its {name} is {space!r}; its constructor must set one of gymnasium.spaces")


def import_family(env_id: str) -> None:
    """Imports the package that registers `env_id`.

    Raises:
        InputError: it is not installed; the message names the pip command.
    """
    for prefix, (module, extra) in FAMILIES.items():
        if env_id.startswith(prefix):
            try:
                import_module(module)
            except ImportError as error:
                if error.name != module:
                    raise InputError(f"env.id = {env_id!r}: {module} cannot be imported: {describe(error)}") from error
                package = f'"ntm-rl[{extra}]"' if extra else module.replace("_", "-")
                raise InputError(
                    f"env.id = {env_id!r}: {module} is not installed; run: pip install {package}"
                ) from error


def is_environment(name: str) -> bool:
    """Whether a name is a registered environment id or has the form `module:name`, whose module is not imported.

    Raises:
        InputError: the package of its family is not installed, or it is malformed.
    """
    module, env_id = split(name)
    if module is not None:
        return True
    import_family(env_id)
    return env_id in gym.registry and not is_legacy_atari(env_id)


def check_spaces(env_id: str, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> None:
    """Raises an `InputError` for spaces that policies do not support."""
    is_dict = isinstance(observation_space, spaces.Dict)
    parts = observation_space.spaces if is_dict else {"": observation_space}  # type: ignore[attr-defined]
    for name, part in parts.items():
        where = f"observation {name!r}" if is_dict else "observation space"
        if not isinstance(name, str):
            raise InputError(f"env.id = {env_id!r}: its {where}: the keys of a Dict must be strings; rename it")
        if not is_plain(part):
            raise InputError(
                f"env.id = {env_id!r}: its {where} {part} is not supported; valid are Box, Discrete, MultiDiscrete, "
                "MultiBinary, and a Dict or Tuple of these; convert it or drop it with "
                "gymnasium.wrappers.TransformObservation"
            )
        if not 1 <= _elements(part) <= MAX_ELEMENTS:
            raise InputError(f"env.id = {env_id!r}: its {where} {part} must have 1 to {MAX_ELEMENTS} elements")
    if not parts:
        raise InputError(f"env.id = {env_id!r}: its observation space {observation_space} is empty")
    check_action_space(action_space, f"env.id = {env_id!r}: its action space")


def _elements(space: spaces.Space[Any]) -> int:
    # flatdim would allocate arrays of that size for some spaces.
    return math.prod(space.shape or (1,)) if isinstance(space, spaces.Box) else int(spaces.flatdim(space))


def _unknown(env_id: str, error: Exception) -> str:
    return f"unknown environment.{suggest_id(env_id) or ' ' + str(error)} `ntm-rl list envs` lists the valid ids."
