"""Observations of an exported policy: from the inputs of a step to what the policy reads."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from gymnasium import spaces
from torch import Tensor, nn

from ntm_rl.agents.export.ports import Port, of_space
from ntm_rl.agents.policy.files import LoadedAgent
from ntm_rl.agents.policy.normalization import SINGLE
from ntm_rl.envs.wrappers.images import is_image
from ntm_rl.envs.wrappers.previous_step import PreviousStepEncoding
from ntm_rl.errors import InputError

ACTION, REWARD = "previous_action", "previous_reward"
BEFORE_FIRST = "of the last step; ignored where reset is true"


class Observations(nn.Module):
    """Encodes the previous action and reward, transposes images and normalises.

    Args:
        agent: The agent.
        channels_last: Whether images come as `[H, W, C]`.

    Attributes:
        ports: The inputs: one, or one for each key of a Dict space.

    Raises:
        InputError: `channels_last` without an image.
    """

    def __init__(self, agent: LoadedAgent, channels_last: bool):
        super().__init__()
        space = agent.policy.observation_space
        self._is_dict = isinstance(space, spaces.Dict)
        parts = dict(space.spaces) if isinstance(space, spaces.Dict) else {SINGLE: space}
        if channels_last and not any(map(is_image, parts.values())):
            raise InputError("channels_last = True: the agent observes no image; leave it out")
        previous = _previous_step(parts, agent.policy.action_space) if self._is_dict else ()
        self.ports: list[Port] = []
        self._keys, self._readers, self._normalizers = list(parts), nn.ModuleList(), nn.ModuleList()
        for key, part in parts.items():
            if key in previous:
                reader: Any = _PreviousAction(agent.policy.action_space) if key == ACTION else _PreviousReward()
            else:
                name = SINGLE if key == SINGLE else f"{SINGLE}.{key}"
                reader = _Part(name, part, channels_last and is_image(part))
            self.ports.append(reader.port)
            self._readers.append(reader)
            self._normalizers.append(_normalizer(agent, key))

    def forward(self, inputs: Sequence[Tensor], reset: Tensor) -> Tensor | dict[str, Tensor]:
        """Returns the policy's observations from the inputs of a step, in the order of the ports."""
        modules = zip(inputs, self._readers, self._normalizers, strict=True)
        values = [normalizer(reader(value, reset)) for value, reader, normalizer in modules]
        return dict(zip(self._keys, values, strict=True)) if self._is_dict else values[0]


class _Part(nn.Module):
    """A part of the observation as the policy reads it, but for the order of an image's axes."""

    def __init__(self, name: str, space: spaces.Space[Any], channels_last: bool):
        super().__init__()
        self.channels_last = channels_last
        text = _text(space)
        if channels_last:
            assert isinstance(space, spaces.Box)
            low, high = (np.moveaxis(bound, 0, 2) for bound in (space.low, space.high))
            space, text = spaces.Box(low, high, dtype=space.dtype.type), f"{text}, channels last"
        self.port = of_space(name, space, text)

    def forward(self, value: Tensor, reset: Tensor) -> Tensor:
        return value.permute(0, 3, 1, 2) if self.channels_last else value


class _PreviousAction(nn.Module):
    """The previous action, encoded as by `PreviousStepEncoding`, with zeros at the start of an episode."""

    start: Tensor

    def __init__(self, space: spaces.Space[Any]):
        super().__init__()
        self.port = of_space(ACTION, space, f"the action {BEFORE_FIRST}")
        self.sizes = _choices(space)
        start = getattr(space, "start", 0) if self.sizes else 0
        self.register_buffer("start", torch.as_tensor(np.asarray(start, dtype=np.int64)).flatten())

    def forward(self, action: Tensor, reset: Tensor) -> Tensor:
        flat = action.reshape(action.shape[0], -1)
        if self.sizes:
            columns = (flat.long() - self.start).clamp(min=0).unbind(1)
            flat = torch.cat([F.one_hot(each, size) for each, size in zip(columns, self.sizes, strict=True)], dim=1)
        return flat.float().masked_fill(reset.unsqueeze(1), 0)


class _PreviousReward(nn.Module):
    """The previous reward, 0 at the start of an episode."""

    port = Port(REWARD, (), "float32", f"the reward {BEFORE_FIRST}", spaces.Box(-np.inf, np.inf, (), np.float32))

    def forward(self, reward: Tensor, reset: Tensor) -> Tensor:
        return reward.masked_fill(reset, 0).unsqueeze(1)


class _Normalizer(nn.Module):
    """`VecNormalize`'s scaling of a part, in float64 as there."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, statistics: Mapping[str, Tensor], key: str, epsilon: float, clip: float):
        super().__init__()
        self.clip = clip
        self.register_buffer("mean", statistics[f"{key}.mean"].cpu())
        self.register_buffer("deviation", torch.sqrt(statistics[f"{key}.var"].cpu() + epsilon))

    def forward(self, value: Tensor) -> Tensor:
        return ((value.double() - self.mean) / self.deviation).clamp(-self.clip, self.clip).float()


def _normalizer(agent: LoadedAgent, key: str) -> nn.Module:
    """Returns the module that normalises a part, if the agent does."""
    if f"{key}.mean" not in agent.statistics:
        return nn.Identity()
    scale = agent.card["normalization"]
    return _Normalizer(agent.statistics, key, scale["epsilon"], scale["clip"])


def _previous_step(parts: Mapping[str, spaces.Space[Any]], actions: spaces.Space[Any]) -> list[str]:
    """Returns the keys that the wrapper `PreviousStep` added: those with its names and spaces."""
    others = spaces.Dict({key: part for key, part in parts.items() if key not in (ACTION, REWARD)})
    added = PreviousStepEncoding(others, actions, action=True, reward=True).space
    return [key for key in (ACTION, REWARD) if key in parts and parts[key] == added[key]]


def _choices(space: spaces.Space[Any]) -> list[int]:
    """Returns the number of values of each component of a Discrete or MultiDiscrete space; empty for others."""
    if isinstance(space, spaces.Discrete):
        return [int(space.n)]
    return space.nvec.ravel().tolist() if isinstance(space, spaces.MultiDiscrete) else []


def _text(space: spaces.Space[Any]) -> str:
    if is_image(space):
        return f"image, {'0 to 255' if space.dtype == np.uint8 else '0 to 1'}"
    if isinstance(space, spaces.Discrete):
        return f"integers from 0 to {int(space.n) - 1}"
    if isinstance(space, spaces.MultiDiscrete):
        return f"integers from 0, below {space.nvec.tolist()}"
    return "0 or 1" if isinstance(space, spaces.MultiBinary) else "numbers"
