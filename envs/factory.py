"""Makes any Gymnasium environment by id, wrapped as the settings say."""

import math
import warnings
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import Annotated, Any, Literal

import gymnasium as gym
from gymnasium import spaces

from ntm_rl.envs.batched.minigrid_memory import MINIGRID_MEMORY, check_size
from ntm_rl.envs.foreign import ForeignError, describe, is_in_user_code, is_wrong_call
from ntm_rl.envs.modules import import_named, spec_of_class
from ntm_rl.envs.names import FAMILIES, is_legacy_atari, suggest_id
from ntm_rl.envs.wrappers.actions import RescaledAction, check_action_space
from ntm_rl.envs.wrappers.guard import guard
from ntm_rl.envs.wrappers.masking import MaskVelocity
from ntm_rl.envs.wrappers.missions import Mission
from ntm_rl.envs.wrappers.observations import MAX_ELEMENTS, is_plain, make_readable
from ntm_rl.envs.wrappers.previous_step import PreviousStep
from ntm_rl.errors import InputError

Vectorization = Literal["auto", "native", "sync", "subprocess"]


@dataclass(frozen=True)
class EnvSettings:
    """Which environment, and how an agent sees it; the annotations say what each field does."""

    id: Annotated[str, "Gymnasium id; `module:id` imports the module first, `module:Class` is a class in it."]
    kwargs: Annotated[dict[str, Any], "Passed to gymnasium.make."] = field(default_factory=dict)
    mask_velocity: Annotated[bool, "Hide the velocities of a classic control task."] = False
    previous_action: Annotated[bool, "Let the previous action join the observation."] = False
    previous_reward: Annotated[bool, "Let the previous reward join the observation."] = False
    mission: Annotated[
        Mission, "Words of MiniGrid's and BabyAI's mission join the observation: where it may change, always, or never."
    ] = "auto"
    rescale_action: Annotated[bool, "Scale actions from [-1, 1] to the bounds of a Box."] = False
    max_episode_steps: Annotated[int | None, "Time limit in place of the environment's own; null: its own."] = None
    vectorization: Annotated[
        Vectorization, "Copies stepped natively, one by one, in a process each, or (auto) natively where possible."
    ] = "auto"
    worker_timeout: Annotated[float, "Seconds that a step may take where each copy has a process."] = 300.0
    restart_workers: Annotated[bool, "Start a copy's process anew where it crashed or hangs; false: an error."] = False
    normalize_observation: Annotated[bool, "Normalise observations by running statistics."] = False
    normalize_reward: Annotated[bool, "Scale rewards by the running deviation of the discounted return."] = False
    path: Annotated[
        str | None, "Folder of the module of `module:id`; null: it is installed, or `train` runs in its folder."
    ] = None


def make_env(settings: EnvSettings, render_mode: str | None = None, index: int | None = None) -> gym.Env[Any, Any]:
    """Makes one environment that a policy can play.

    Args:
        settings: What to make.
        render_mode: As `gymnasium.make` takes it.
        index: Which of several copies it is, for errors.

    Raises:
        InputError: unknown id, missing package, wrong keyword arguments, or spaces that no policy can read.
        ForeignError: the environment's own code raised an error.
    """
    settings = with_time_limit(settings)
    import_family(settings.id)
    import_named(settings.id, settings.path)
    label = f"env.id = {settings.id!r}"
    env = guard(_make(settings, render_mode), label, index)
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


def with_time_limit(settings: EnvSettings) -> EnvSettings:
    """Returns settings whose time limit stands in its own key, and not among the keyword arguments.

    Raises:
        InputError: a time limit that is no number of steps.
    """
    limit = settings.kwargs.get("max_episode_steps")
    if limit is not None and settings.max_episode_steps not in (None, limit):
        warnings.warn(
            f"env.kwargs.max_episode_steps = {limit}: env.max_episode_steps = {settings.max_episode_steps} is taken",
            stacklevel=3,
        )
    if "max_episode_steps" in settings.kwargs:
        kwargs = {key: value for key, value in settings.kwargs.items() if key != "max_episode_steps"}
        settings = replace(settings, kwargs=kwargs, max_episode_steps=settings.max_episode_steps or limit)
    check_time_limit(settings)
    return settings


def check_time_limit(settings: EnvSettings) -> None:
    """Raises an `InputError` for a time limit that is no number of steps."""
    limit = settings.max_episode_steps
    if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool) or limit < 1):
        raise InputError(f"env.max_episode_steps = {limit}: must be at least 1, or null for the environment's own")


def rom_of(env_id: str) -> str:
    """Returns the name of the ROM that an Atari id such as `ALE/MsPacman-v5` plays.

    Raises:
        InputError: ALE is not installed, or has no such id.
    """
    import_family(env_id)
    try:
        return str(gym.spec(env_id).kwargs["game"])
    except gym.error.Error as error:
        raise InputError(f"env.id = {env_id!r}: {_unknown(env_id, error)}") from error


def _make(settings: EnvSettings, render_mode: str | None) -> gym.Env[Any, Any]:
    spec = spec_of_class(settings.id) or settings.id
    try:
        if is_legacy_atari(settings.id):  # registered once ALE is imported, and another task: raw frames
            raise gym.error.UnregisteredEnv(f"{settings.id} is not supported.")
        env = gym.make(
            spec,
            max_episode_steps=settings.max_episode_steps,
            disable_env_checker=True,  # it costs a share of every step, and warns about others' environments
            **{**settings.kwargs, **({} if render_mode is None else {"render_mode": render_mode})},
        )
        if settings.id in MINIGRID_MEMORY:
            check_size(env)  # MiniGrid itself fails at the first reset
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # of which some are not Exceptions, such as PyO3's panics
        raise _not_made(settings, error) from error
    check_has_spaces(f"env.id = {settings.id!r}", env)
    return env


def _not_made(settings: EnvSettings, error: BaseException) -> InputError:
    """Returns the error for what `gymnasium.make` or the environment's constructor raised."""
    what = f"env.id = {settings.id!r}"
    if isinstance(error, gym.error.UnregisteredEnv):
        return InputError(f"{what}: {_unknown(settings.id, error)}")
    if isinstance(error, gym.error.DependencyNotInstalled):
        return InputError(f"{what}: {error}")
    if isinstance(error, gym.error.Error):
        return InputError(f"{what}: cannot be made: {error}")
    if isinstance(error, InputError):  # of an environment of ours
        why = f"env.kwargs = {settings.kwargs}: {settings.id} does not take them" if settings.kwargs else what
        return InputError(f"{why}: {error}")
    if is_wrong_call(error):
        verb = "does not take them" if settings.kwargs else "needs some"
        return InputError(f"env.kwargs = {settings.kwargs}: {settings.id} {verb}: {describe(error)}")
    if isinstance(error, ImportError):
        return InputError(f"{what}: cannot be imported: {describe(error)}")
    if not is_in_user_code(error):  # Gymnasium's own: a malformed id, an entry point that is not there
        return InputError(f"{what}: cannot be made: {error}")
    if settings.kwargs and isinstance(error, Exception) and not isinstance(error, OSError):
        return InputError(f"{what}, env.kwargs = {settings.kwargs}: its constructor raised an error: {describe(error)}")
    return ForeignError(f"{what}: its constructor raised an error: {describe(error)}")


def check_has_spaces(label: str, env: gym.Env[Any, Any]) -> None:
    """Raises an `InputError` where a constructor set no spaces."""
    for name in ("observation_space", "action_space"):
        space = getattr(env, name, None)
        if not isinstance(space, spaces.Space):
            raise InputError(f"{label}: its {name} is {space!r}; its constructor must set one of gymnasium.spaces")


def import_family(env_id: str) -> None:
    """Imports the package that registers `env_id`.

    Raises:
        InputError: it is not installed; names the command that installs it.
    """
    for prefix, (module, extra) in FAMILIES.items():
        if env_id.startswith(prefix):
            try:
                import_module(module)
            except ImportError as error:
                if error.name != module:
                    raise InputError(f"env.id = {env_id!r}: {module} cannot be imported: {describe(error)}") from error
                what = f'"ntm-rl[{extra}]"' if extra else module.replace("_", "-")
                raise InputError(f"env.id = {env_id!r}: {module} is not installed; run: pip install {what}") from error


def check_spaces(env_id: str, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> None:
    """Raises an `InputError` where a policy could not read or act in these spaces."""
    is_dict = isinstance(observation_space, spaces.Dict)
    parts = observation_space.spaces if is_dict else {"": observation_space}  # type: ignore[attr-defined]
    for name, part in parts.items():
        where = f"observation {name!r}" if is_dict else "observation space"
        if not isinstance(name, str):
            raise InputError(f"env.id = {env_id!r}: its {where}: the keys of a Dict must be text; rename it")
        if not is_plain(part):
            raise InputError(
                f"env.id = {env_id!r}: its {where} {part} is not supported; valid are Box, Discrete, MultiDiscrete, "
                "MultiBinary, and a Dict or Tuple of these; gymnasium.wrappers.TransformObservation makes one of them, "
                "or leaves it out"
            )
        if not 1 <= _elements(part) <= MAX_ELEMENTS:
            raise InputError(f"env.id = {env_id!r}: its {where} {part} must have 1 to {MAX_ELEMENTS} elements")
    if not parts:
        raise InputError(f"env.id = {env_id!r}: its observation space {observation_space} is empty")
    check_action_space(action_space, f"env.id = {env_id!r}: its action space")


def _elements(space: spaces.Space[Any]) -> int:
    # Not flatdim, which makes arrays of that size for some.
    return math.prod(space.shape or (1,)) if isinstance(space, spaces.Box) else int(spaces.flatdim(space))


def _unknown(env_id: str, error: Exception) -> str:
    return f"unknown environment.{suggest_id(env_id) or ' ' + str(error)} `ntm-rl list envs` lists the valid ids."
