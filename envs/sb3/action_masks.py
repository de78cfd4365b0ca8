"""Reads the action masks that the sub-environments of a `VecEnv` offer."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from stable_baselines3.common.vec_env import VecEnv

from ntm_rl.envs.factory import UseMasks
from ntm_rl.envs.foreign import FOREIGN, ForeignError, describe_call
from ntm_rl.envs.sb3.attributes import attributes, has_attribute, reset_infos
from ntm_rl.envs.wrappers.action_masks import MaskFormat, Masks
from ntm_rl.errors import InputError

METHOD = "action_masks"  # as sb3_contrib.MaskablePPO expects it
LABEL = "guard_label"  # of `Guarded`
KEY = "action_mask"  # of infos, as in Gymnasium and PettingZoo
IGNORE = "env.action_masks=false (in Python: action_masks=False) ignores masks"
REQUIRED = f"each reset and step must return one; {IGNORE}"


class ActionMaskReader:
    """Reads masks from the method `action_masks()` of the environments, or else from `info["action_mask"]`.

    Call `reset` after each reset of the environment and `step` after each step.

    Args:
        env: The vector environment.
        use: Whether to use masks; "auto": if the environments offer them.

    Attributes:
        env: The vector environment.
        source: "method" or "info"; None without masks, and before the first reset.
    """

    def __init__(self, env: VecEnv, use: UseMasks = "auto"):
        self.env, self._use = env, use
        self.source: Literal["method", "info"] | None = None
        self._format: MaskFormat | None = None
        self._labels: list[str] = []  # of the sub-environments, if `Guarded` has some
        self._steps = 0

    def reset(self) -> Masks | None:
        """Returns the masks `[E, A]` after a reset; None without.

        Raises:
            InputError: no masks, though they are required, or invalid ones.
            ForeignError: the method raised an error.
        """
        self._choose_source(any(KEY in info for info in reset_infos(self.env)))
        self._steps = 0
        return self._read(reset_infos(self.env))

    def resume(self, masks: Masks | None) -> Masks | None:
        """Returns the masks where environments continue without a reset.

        Args:
            masks: The last masks, which infos do not repeat.

        Raises:
            InputError: as `reset`.
        """
        self._choose_source(masks is not None)
        return self._read([{KEY: mask} for mask in (() if masks is None else masks)])

    def step(self, infos: Sequence[Mapping[str, Any]], dones: Any) -> Masks | None:
        """Returns the masks `[E, A]` of the next step; None without.

        Args:
            infos: The infos of the step.
            dones: Which episodes ended, `[E]` bool.

        Raises:
            ForeignError: invalid masks, masks of infos that began without one, or the method raised an error.
        """
        self._steps += 1
        if self.source == "method" or self._use is False:
            return self._read(())
        if self.source is None and not any(infos):  # saves time at most steps
            return None
        started = reset_infos(self.env)
        infos = [started[index] if dones[index] else info for index, info in enumerate(infos)]
        if self.source is None:
            self._reject_late_masks(infos)
        return self._read(infos)

    def _choose_source(self, in_infos: bool) -> None:
        if self._use is False:
            return
        self._labels = attributes(self.env, LABEL)
        self.source = "method" if has_method(self.env) else "info" if in_infos else None
        if self.source is not None:
            try:
                self._format = MaskFormat(self.env.action_space)
            except InputError as error:
                raise InputError(f"{self._join()}{error}; {IGNORE}") from error
        elif self._use is True:
            raise InputError(
                f"{self._join('env.action_masks = True')}the environment has neither a method {METHOD}() nor "
                f"info['{KEY}'] in the first reset; env.action_masks=auto (in Python: action_masks=\"auto\") does not "
                "require masks"
            )

    def _reject_late_masks(self, infos: Sequence[Mapping[str, Any]]) -> None:
        for index, info in enumerate(infos):
            if KEY in info:
                raise ForeignError(
                    f"{self._name(index)}: info['{KEY}'] is present, but was missing at the first reset; {REQUIRED}"
                )

    def _read(self, infos: Sequence[Mapping[str, Any]]) -> Masks | None:
        if self.source is None:
            return None
        try:
            return self._checked(infos)
        except InputError as error:
            if self._steps == 0 or isinstance(error, ForeignError):
                raise
            raise ForeignError(str(error)) from error

    def _checked(self, infos: Sequence[Mapping[str, Any]]) -> Masks:
        assert self._format is not None
        masks = self._call() if self.source == "method" else [info.get(KEY) for info in infos]
        for index, mask in enumerate(masks):
            if mask is None:
                raise InputError(f"{self._name(index)}: no action mask; {REQUIRED}")
        if len(masks) != self.env.num_envs:
            raise InputError(f"{self._join(self._step)}{len(masks)} action masks; must be {self.env.num_envs}")
        return self._format.check(masks, self._name)

    def _call(self) -> list[Any]:
        try:
            return self.env.env_method(METHOD)
        except FOREIGN as error:
            if isinstance(error, InputError) and not isinstance(error, ForeignError):
                raise
            text = str(error) if isinstance(error, ForeignError) else describe_call(METHOD, error)
            raise ForeignError(f"{self._join(self._step)}{text}") from error

    def _name(self, index: int) -> str:
        first = getattr(self.env.unwrapped, "first_index", 0)
        return ", ".join([*self._labels[index : index + 1], f"environment {first + index}", self._step])

    def _join(self, *parts: str) -> str:
        """Returns the prefix of an error of all sub-environments."""
        names = [*dict.fromkeys(self._labels), *parts]
        return f"{', '.join(names)}: " if names else ""

    @property
    def _step(self) -> str:
        return f"step {self._steps}"


def offers_masks(env: VecEnv) -> bool:
    """Whether the sub-environments of a vector environment that was reset offer action masks."""
    return has_method(env) or any(KEY in info for info in reset_infos(env))


def has_method(env: VecEnv) -> bool:
    """Whether the sub-environments have a method `action_masks()`."""
    return has_attribute(env, METHOD)
