"""SB3's zip files of a model: written as a whole, and read where hyperparameters changed."""

import inspect
import io
import os
import warnings
from pathlib import Path
from typing import Any, Self

import torch
from sb3_contrib import RecurrentPPO
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.save_util import load_from_zip_file
from stable_baselines3.common.type_aliases import GymEnv

from ntm_rl.agents.policy.policies import MlpNtmPolicy
from ntm_rl.agents.ppo.credit import CreditHorizon
from ntm_rl.agents.storage.files import make_folder, write_atomically
from ntm_rl.errors import did_you_mean

ATTRIBUTES = ("n_envs", "num_timesteps", "observation_space", "action_space")  # not arguments, but useful in `load`


class FiledRecurrentPPO(RecurrentPPO):
    """Saves and loads the measured lambda too, where there is one.

    Attributes:
        credit: The measurement of lambda; None if lambda is fixed.
    """

    credit: CreditHorizon | None

    def save(self, path: Any, exclude: Any = None, include: Any = None) -> None:
        """See `BaseAlgorithm.save`; a file that exists is replaced when the new one is complete.

        Raises:
            WriteError: disk full, no permission, or another error of the system.
        """
        if not isinstance(path, (str, os.PathLike)):
            return super().save(path, exclude, include)
        file = Path(path)
        if not file.suffix:
            file = Path(f"{file}.zip")
        if file.exists() and not file.is_file():  # SB3 has a rule for folders, and writes to devices
            return super().save(file, exclude, include)
        content = io.BytesIO()
        super().save(content, exclude, include)
        make_folder(file.parent)
        write_atomically(file.resolve(), content.getvalue())

    @classmethod
    def load(
        cls,
        path: Any,
        env: GymEnv | str | None = None,
        device: torch.device | str = "auto",
        custom_objects: dict[str, Any] | None = None,
        print_system_info: bool = False,
        force_reset: bool = True,
        **kwargs: Any,
    ) -> Self:
        """See `BaseAlgorithm.load`; warns of keyword arguments that are no arguments of the constructor."""
        algorithms = [each for each in cls.__mro__ if issubclass(each, RecurrentPPO)]
        valid = {*_parameters(*algorithms), *ATTRIBUTES}
        for name, value in kwargs.items():
            if name in valid or name.startswith("_"):
                continue
            of_policy = name in _parameters(MlpNtmPolicy, ActorCriticPolicy)
            hint = " Options of the policy cannot be changed." if of_policy else did_you_mean(name, valid)
            warnings.warn(
                f"load: {name} = {value!r} is no argument of {cls.__name__} and has no effect.{hint}", stacklevel=2
            )
        given: Any = env  # an id too, which `_wrap_env` makes
        return super().load(path, given, device, custom_objects, print_system_info, force_reset, **kwargs)

    def set_parameters(
        self, load_path_or_dict: Any, exact_match: bool = True, device: torch.device | str = "auto"
    ) -> None:
        """See `BaseAlgorithm.set_parameters`; a measured lambda is read only if this model measures it too."""
        if isinstance(load_path_or_dict, dict):
            parameters = dict(load_path_or_dict)
        else:
            parameters = load_from_zip_file(load_path_or_dict, load_data=False, device=device)[1]
        if self.credit is None:
            parameters.pop("credit", None)
        elif exact_match:
            parameters.setdefault("credit", self.credit.state_dict())
        super().set_parameters(parameters, exact_match, device)

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        modules, variables = super()._get_torch_save_params()
        return [*modules, *([] if self.credit is None else ["credit"])], variables


def _parameters(*functions: Any) -> set[str]:
    return {name for each in functions for name in inspect.signature(each).parameters}
