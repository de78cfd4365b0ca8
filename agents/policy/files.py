"""Agents as files that are safe to load: see `storage.cards`.

SB3's `model.save("agent.zip")` works too, but loading a zip file runs any code in it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.torch_layers import CombinedExtractor, FlattenExtractor, NatureCNN
from stable_baselines3.common.utils import get_device
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor, nn

from ntm_rl.agents.policy.arguments import Activation
from ntm_rl.agents.policy.image_extractor import ImageExtractor, MultiInputExtractor
from ntm_rl.agents.policy.normalization import normalize, observation_state, require_fitting_statistics
from ntm_rl.agents.policy.policies import POLICIES, MlpNtmPolicy
from ntm_rl.agents.storage.cards import build_model, make_card, read_model, write_model
from ntm_rl.agents.storage.checkpoints import PPO_CHECKPOINT, read_parts
from ntm_rl.agents.storage.files import StorageError
from ntm_rl.agents.storage.hub import AGENT_FILE, Repository, download, is_hub_reference
from ntm_rl.agents.storage.spaces import space_from_json, space_to_json
from ntm_rl.agents.storage.tensors import weights_of
from ntm_rl.errors import InputError

SMALL_SPACE = 2**20  # elements of an observation or action that any file may have
CLASSES: dict[str, type[Any]] = {
    kind.__name__: kind
    for kind in (
        *(getattr(nn, name) for name in get_args(Activation)),
        *(FlattenExtractor, NatureCNN, CombinedExtractor, ImageExtractor, MultiInputExtractor),
    )
}
_PACKAGES = ("ntm-rl", "torch", "stable-baselines3", "gymnasium")
_NOT_SAVED = ("observation_space", "action_space", "lr_schedule", "optimizer_class", "optimizer_kwargs")


@dataclass(frozen=True)
class LoadedAgent:
    """An agent ready to act.

    Attributes:
        policy: In evaluation mode.
        card: The card of its file.
        statistics: `VecNormalize`'s statistics of the observations; empty if they were not normalised.
    """

    policy: MlpNtmPolicy
    card: dict[str, Any]
    statistics: dict[str, Tensor]

    def predict(
        self,
        observation: Any,
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | bool | None = None,
        deterministic: bool = False,
        action_masks: Any = None,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """Like `predict` of an SB3 model, but for observations that are not normalised."""
        return self.policy.predict(self.normalized(observation), state, episode_start, deterministic, action_masks)

    def normalized(self, observation: Any) -> Any:
        """Returns an observation normalised as in training."""
        if not self.statistics:
            return observation
        scale = self.card["normalization"]
        return normalize(observation, self.statistics, scale["epsilon"], scale["clip"])


def save_agent(
    policy: MlpNtmPolicy,
    folder: Path | str,
    normalizer: VecNormalize | None = None,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Writes `weights.safetensors`, which also contains the card, and `card.json`, a readable copy of the card.

    Args:
        policy: The policy to save.
        folder: Target folder, made if missing. An agent already there is replaced atomically.
        normalizer: Wrapper whose statistics of the observations are saved with the agent.
        extra: JSON values for the card, such as the environment's id.

    Raises:
        InputError: a class or an argument of the policy that a card cannot express.
        StorageError: the files could not be written; an older agent is untouched.
    """
    card = agent_card(policy, normalizer, extra)
    statistics = {} if normalizer is None else observation_state(normalizer)
    write_agent(LoadedAgent(policy, card, statistics), folder)


def write_agent(agent: LoadedAgent, folder: Path | str) -> None:
    """Writes a loaded agent with its card; files and errors as in `save_agent`."""
    tensors = {f"policy.{name}": tensor for name, tensor in weights_of(agent.policy).items()}
    tensors |= {f"statistics.{name}": tensor for name, tensor in agent.statistics.items()}
    write_model(folder, tensors, agent.card)


def agent_card(
    policy: BasePolicy, normalizer: VecNormalize | None = None, extra: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Returns the card of an agent; arguments and errors as in `save_agent`."""
    if not isinstance(policy, MlpNtmPolicy) or POLICIES.get(type(policy).__name__) is not type(policy):
        raise InputError(
            f"policy = {type(policy).__name__}: a card can only name {', '.join(POLICIES)}; use model.save"
        )
    card: dict[str, Any] = {
        **make_card("agent", _arguments(policy), _PACKAGES, extra),
        "policy": type(policy).__name__,
        "observation_space": space_to_json(policy.observation_space),
        "action_space": space_to_json(policy.action_space),
    }
    if normalizer is not None and normalizer.norm_obs:
        card["normalization"] = {"epsilon": normalizer.epsilon, "clip": normalizer.clip_obs}
    return card


def load_agent(folder: Path | str, device: torch.device | str = "auto") -> LoadedAgent:
    """Loads an agent without running code from its files.

    Args:
        folder: Folder of `save_agent`, or `hf://USER/NAME[@REVISION]`: a repository of `ntm-rl push`.
        device: Device of the policy.

    Raises:
        StorageError: missing, damaged, altered, or no agent.
    """
    if is_hub_reference(folder):
        folder = download(Repository.parse(str(folder)), [AGENT_FILE])[AGENT_FILE].parent
    path, tensors, card = read_model(folder)
    weights, statistics = _with_prefix(tensors, "policy."), _with_prefix(tensors, "statistics.")
    if len(weights) + len(statistics) != len(tensors):
        raise StorageError(f"{path}: its tensors are not those of an agent")
    return _build_agent(path, weights, statistics, card, device)


def load_checkpoint_agent(path: Path, device: torch.device | str = "auto") -> LoadedAgent:
    """Loads the agent of a checkpoint, without its environment and settings.

    Raises:
        StorageError: missing, damaged, or without a description of its agent.
    """
    groups, document = read_parts(path, PPO_CHECKPOINT)
    if not isinstance(document.get("agent"), dict):
        raise StorageError(
            f"{path}: it does not describe its agent, as those of user-defined policies do not; `ntm-rl resume` saves "
            "the agent at the end of the training"
        )
    statistics = _with_prefix(groups["normalizer"], "observations.")
    return _build_agent(path, groups["policy"], statistics, document["agent"], device)


def _build_agent(
    path: Path,
    weights: Mapping[str, Tensor],
    statistics: dict[str, Tensor],
    card: dict[str, Any],
    device: torch.device | str,
) -> LoadedAgent:
    largest = max(SMALL_SPACE, sum(tensor.numel() for tensor in weights.values()))
    policy = build_model(path, "agent", card, weights, lambda: _build(card, largest), lambda built: built.state_size)
    if statistics or "normalization" in card:
        require_fitting_statistics(path, statistics, policy.observation_space, card.get("normalization"))
    policy = policy.to(get_device(device))
    policy.set_training_mode(False)
    if policy.use_sde:  # the noise drawn so far does not have the file's standard deviation
        policy.reset_noise()
    return LoadedAgent(policy, card, statistics)


def _with_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _arguments(policy: MlpNtmPolicy) -> dict[str, Any]:
    arguments = {}
    for key, value in policy._get_constructor_parameters().items():
        if key in _NOT_SAVED or value is None:
            continue
        try:
            arguments[key] = json.loads(json.dumps(_class_to_json(key, value) if isinstance(value, type) else value))
        except TypeError as error:
            raise InputError(f"{key} = {value!r}: a card cannot express it ({error}); use model.save") from error
    return arguments


def _class_to_json(key: str, value: type[Any]) -> dict[str, str]:
    if CLASSES.get(value.__name__) is not value:
        raise InputError(f"{key} = {value.__name__}: a card can only name {', '.join(CLASSES)}; use model.save")
    return {"class": value.__name__}


def _build(card: Mapping[str, Any], largest: int) -> MlpNtmPolicy:
    """Builds a card's policy; `largest` limits the elements of its spaces."""
    observations, actions = (space_from_json(card[key], largest) for key in ("observation_space", "action_space"))
    arguments: dict[str, Any] = {
        key: CLASSES[value["class"]] if isinstance(value, dict) and "class" in value else value
        for key, value in card["arguments"].items()
    }
    return POLICIES[card["policy"]](observations, actions, lr_schedule=lambda _: 0.0, **arguments)
