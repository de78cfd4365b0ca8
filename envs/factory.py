"""Makes any Gymnasium environment by id, wrapped as the settings say."""

import warnings
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import Annotated, Any, Literal

import gymnasium as gym
from gymnasium import spaces

from ntm_rl.envs.actions import RescaledAction
from ntm_rl.envs.masking import MaskVelocity
from ntm_rl.envs.minigrid_memory import MINIGRID_MEMORY, check_size
from ntm_rl.envs.missions import Mission
from ntm_rl.envs.names import FAMILIES, is_legacy_atari, suggest_id
from ntm_rl.envs.observations import is_plain, make_readable
from ntm_rl.envs.previous_step import PreviousStep
from ntm_rl.errors import InputError

Vectorization = Literal["auto", "native", "sync", "subprocess"]


@dataclass(frozen=True)
class EnvSettings:
    """Which environment, and how an agent sees it; the annotations say what each field does."""

    id: Annotated[str, "Gymnasium id; `module:id` imports the module first."]
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


def make_env(settings: EnvSettings, render_mode: str | None = None) -> gym.Env[Any, Any]:
    """Makes one environment that a policy can play.

    Raises:
        InputError: unknown id, missing package, wrong keyword arguments, or spaces that no policy can read.
    """
    settings = with_time_limit(settings)
    import_family(settings.id)
    env = _make(settings, render_mode)
    if settings.mask_velocity:
        env = MaskVelocity(env)
    env = make_readable(env, settings.mission)
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
    try:
        if is_legacy_atari(settings.id):  # registered once ALE is imported, and another task: raw frames
            raise gym.error.UnregisteredEnv(f"{settings.id} is not supported.")
        env = gym.make(
            settings.id,
            max_episode_steps=settings.max_episode_steps,
            disable_env_checker=True,  # it costs a share of every step, and warns about others' environments
            **{**settings.kwargs, **({} if render_mode is None else {"render_mode": render_mode})},
        )
        if settings.id in MINIGRID_MEMORY:
            check_size(env)  # MiniGrid itself fails at the first reset
        return env
    except gym.error.UnregisteredEnv as error:
        raise InputError(f"env.id = {settings.id!r}: {_unknown(settings.id, error)}") from error
    except ModuleNotFoundError as error:
        missing = error.name or settings.id.partition(":")[0]  # Gymnasium's own error for `module:id` has no name
        raise InputError(f"env.id = {settings.id!r}: module {missing!r} is not installed") from error
    except (gym.error.DependencyNotInstalled, ImportError) as error:
        raise InputError(f"env.id = {settings.id!r}: {error}") from error
    except (TypeError, AssertionError, ValueError, gym.error.Error) as error:
        why = str(error) or type(error).__name__
        if not settings.kwargs or isinstance(error, gym.error.DeprecatedEnv):
            raise InputError(f"env.id = {settings.id!r}: cannot be made: {why}") from error
        raise InputError(f"env.kwargs = {settings.kwargs}: {settings.id} does not take them: {why}") from error


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
                what = f'"ntm-rl[{extra}]"' if extra else module.replace("_", "-")
                raise InputError(f"env.id = {env_id!r}: {module} is not installed; run: pip install {what}") from error


def check_spaces(env_id: str, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> None:
    """Raises an `InputError` where a policy could not read or act in these spaces."""
    parts = observation_space.spaces if isinstance(observation_space, spaces.Dict) else {"": observation_space}
    for name, part in parts.items():
        if not is_plain(part):
            where = f"observation {name!r}" if name else "observation space"
            raise InputError(
                f"env.id = {env_id!r}: its {where} {part} is not supported; valid are Box, Discrete, MultiDiscrete, "
                "MultiBinary, and a Dict or Tuple of these"
            )
    if not is_plain(action_space):
        raise InputError(
            f"env.id = {env_id!r}: its action space {action_space} is not supported; valid are Box, Discrete from 0, "
            "MultiDiscrete from 0 and MultiBinary, the last two of one dimension"
        )
    if isinstance(action_space, spaces.Box) and not action_space.is_bounded():
        raise InputError(
            f"env.id = {env_id!r}: its action space {action_space} has no bounds; wrap the environment in "
            "gymnasium.wrappers.ClipAction or RescaleAction with finite ones"
        )


def _unknown(env_id: str, error: Exception) -> str:
    return f"unknown environment.{suggest_id(env_id) or ' ' + str(error)} `ntm-rl list envs` lists the valid ids."
