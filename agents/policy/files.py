"""Finished agents as files that anybody can load safely: weights, and a card that says what they are.

SB3's own `model.save("agent.zip")` works as well; loading such a file runs whatever code it holds, loading these does
not.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from gymnasium import Space
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.torch_layers import CombinedExtractor, FlattenExtractor, NatureCNN
from stable_baselines3.common.utils import get_device
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor, nn

from ntm_rl.agents.policy.arguments import Activation
from ntm_rl.agents.policy.image_extractor import ImageExtractor, MultiInputExtractor
from ntm_rl.agents.policy.normalization import (
    normalize,
    observation_state,
    require_fitting_statistics,
)
from ntm_rl.agents.policy.policies import POLICIES, MlpNtmPolicy
from ntm_rl.agents.storage.cards import CARD, WEIGHTS
from ntm_rl.agents.storage.checkpoints import read_parts
from ntm_rl.agents.storage.files import StorageError, make_folder, write_atomically
from ntm_rl.agents.storage.planning import build_filled, require_sizes
from ntm_rl.agents.storage.spaces import space_from_json, space_to_json
from ntm_rl.agents.storage.tensors import read_tensors, weights_of, write_tensors
from ntm_rl.errors import InputError

FORMAT = 1
MAX_ARGUMENTS = 10_000  # characters: a card of a million layers is hostile, and costs time before a tensor is missed
SMALL_SPACE = 2**20  # numbers in an observation or action that cost nothing, whatever the size of the file
CLASSES: dict[str, type[Any]] = {
    kind.__name__: kind
    for kind in (
        *(getattr(nn, name) for name in get_args(Activation)),
        *(FlattenExtractor, NatureCNN, CombinedExtractor, ImageExtractor, MultiInputExtractor),
    )
}
_NOT_OF_THE_NETWORK = ("observation_space", "action_space", "lr_schedule", "optimizer_class", "optimizer_kwargs")


@dataclass(frozen=True)
class LoadedAgent:
    """An agent ready to act.

    Attributes:
        policy: On the device asked for, in evaluation mode.
        card: What the file says about the agent.
        statistics: Of the observations it was trained on, if they were normalised.
    """

    policy: MlpNtmPolicy
    card: dict[str, Any]
    statistics: dict[str, Tensor]

    def predict(
        self,
        observation: Any,
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """As `predict` of an SB3 model, on the environment's own observations."""
        return self.policy.predict(self.normalized(observation), state, episode_start, deterministic)

    def normalized(self, observation: Any) -> Any:
        """Returns an observation as the policy was trained on."""
        if not self.statistics:
            return observation
        scale = self.card["normalization"]
        return normalize(observation, self.statistics, scale["epsilon"], scale["clip"])


def save_agent(
    policy: MlpNtmPolicy,
    folder: Path,
    normalizer: VecNormalize | None = None,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Writes `weights.safetensors`, which holds everything, and `card.json`, a copy of its card for the reader.

    Args:
        policy: What to save.
        folder: Where; made if missing. An agent already there is replaced in one step.
        normalizer: Whose statistics of the observations belong to the agent.
        extra: JSON values for the card, such as the environment's id.

    Raises:
        InputError: a class or an argument of the policy that no card can express.
        StorageError: it could not be written; an older agent is untouched.
    """
    card = agent_card(policy, normalizer, extra)
    statistics = {} if normalizer is None else observation_state(normalizer)
    tensors = {f"policy.{name}": tensor for name, tensor in weights_of(policy).items()}
    tensors |= {f"statistics.{name}": tensor for name, tensor in statistics.items()}
    make_folder(folder)
    write_tensors(folder / WEIGHTS, tensors, card)
    write_atomically(folder / CARD, (json.dumps(card, indent=2) + "\n").encode())


def agent_card(
    policy: BasePolicy, normalizer: VecNormalize | None = None, extra: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Returns what must be known beside the weights to build an agent; arguments and errors as `save_agent`."""
    if not isinstance(policy, MlpNtmPolicy) or POLICIES.get(type(policy).__name__) is not type(policy):
        raise InputError(
            f"policy = {type(policy).__name__}: a card can only name {', '.join(POLICIES)}; use model.save"
        )
    card: dict[str, Any] = {
        "format": FORMAT,
        "kind": "agent",
        "policy": type(policy).__name__,
        "arguments": _arguments(policy),
        "observation_space": space_to_json(policy.observation_space),
        "action_space": space_to_json(policy.action_space),
        "versions": {name: version(name) for name in ("ntm-rl", "torch", "stable-baselines3", "gymnasium")},
        **({"extra": dict(extra)} if extra else {}),
    }
    if normalizer is not None and normalizer.norm_obs:
        card["normalization"] = {"epsilon": normalizer.epsilon, "clip": normalizer.clip_obs}
    return card


def load_agent(folder: Path | str, device: torch.device | str = "auto") -> LoadedAgent:
    """Loads an agent; no code in the files is run, and nothing is built that the weights do not fill.

    Raises:
        StorageError: missing, damaged, altered, or no agent.
    """
    path = Path(folder) / WEIGHTS
    tensors, card = read_tensors(path)
    weights, statistics = _part(tensors, "policy."), _part(tensors, "statistics.")
    if len(weights) + len(statistics) != len(tensors):
        raise StorageError(f"{path}: not an agent of format {FORMAT}")
    return build_agent(path, weights, statistics, card, device)


def build_agent(
    path: Path,
    weights: Mapping[str, Tensor],
    statistics: dict[str, Tensor],
    card: dict[str, Any],
    device: torch.device | str = "auto",
) -> LoadedAgent:
    """Builds the agent of a card.

    Args:
        path: The file that all this was read from, for the errors.
        weights: As `weights_of` names them.
        statistics: As `observation_state` names them; empty where observations are not normalised.
        card: See `agent_card`.
        device: Where the agent computes.

    Raises:
        StorageError: the parts do not fit together, or are of no agent.
    """
    largest = max(SMALL_SPACE, sum(tensor.numel() for tensor in weights.values()))
    try:
        if card["kind"] != "agent" or card["format"] != FORMAT:
            raise StorageError(f"{path}: not an agent of format {FORMAT}")
        if len(json.dumps(card["arguments"])) > MAX_ARGUMENTS:
            raise StorageError(f"{path}: its card's arguments are longer than {MAX_ARGUMENTS} characters")
        require_sizes(path, card["arguments"])
        observations = space_from_json(card["observation_space"], largest)
        actions = space_from_json(card["action_space"], largest)
        policy = build_filled(
            path, lambda: _build(card, observations, actions), lambda planned: planned.state_size, weights
        )
        if statistics or "normalization" in card:
            require_fitting_statistics(path, statistics, policy.observation_space, card["normalization"])
    except StorageError:
        raise
    except Exception as error:  # whatever a hostile card makes the constructors raise
        raise StorageError(f"{path}: its card describes no agent that this version can build: {error}") from error
    policy = policy.to(get_device(device))
    policy.set_training_mode(False)
    if policy.use_sde:  # what was drawn so far is of another deviation than the file's
        policy.reset_noise()
    return LoadedAgent(policy, card, statistics)


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _arguments(policy: MlpNtmPolicy) -> dict[str, Any]:
    arguments = {}
    for key, value in policy._get_constructor_parameters().items():
        if key in _NOT_OF_THE_NETWORK or value is None:
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


def _build(card: Mapping[str, Any], observations: Space[Any], actions: Space[Any]) -> MlpNtmPolicy:
    arguments: dict[str, Any] = {
        key: CLASSES[value["class"]] if isinstance(value, dict) and "class" in value else value
        for key, value in card["arguments"].items()
    }
    return POLICIES[card["policy"]](
        observations,
        actions,
        lr_schedule=_no_learning,
        **arguments,
    )


def _no_learning(_: float) -> float:
    return 0.0


def checkpoint_agent(path: Path, device: torch.device | str = "auto") -> LoadedAgent:
    """Loads the agent of a checkpoint, without the environment and the settings that it was trained with.

    Raises:
        StorageError: missing, damaged, or without an agent that can be built.
    """
    groups, document = read_parts(path, "checkpoint")
    if not isinstance(document.get("agent"), dict):
        raise StorageError(
            f"{path}: it does not describe its agent, as checkpoints of earlier versions and of policies of your own "
            "do not; `ntm-rl resume` writes the agent itself when it ends"
        )
    seen = "observations."
    statistics = {
        name.removeprefix(seen): tensor for name, tensor in groups["normalizer"].items() if name.startswith(seen)
    }
    return build_agent(path, groups["policy"], statistics, document["agent"], device)
