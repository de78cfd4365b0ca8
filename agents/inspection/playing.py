"""Plays an agent's episodes step by step."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from ntm_rl.agents.inspection.frames import Frame
from ntm_rl.agents.policy.files import LoadedAgent
from ntm_rl.envs.factory import UseMasks
from ntm_rl.envs.sb3.action_masks import ActionMaskReader


class Step(NamedTuple):
    """A step in a single environment.

    Attributes:
        frame: The environment's frame before the action; None if it does not render.
        observation: A batch of one observation, not normalised.
        distribution: torch's distribution of the action; a list for MultiDiscrete.
        sample: The action as sampled, `[A]`, `[]` if Discrete.
        action: The environment's action.
        value: The critic's value of the observation.
        before: The flat state of the actor's core before the step, zeros at the start of an episode, `[1, S]`.
        after: That after it.
        reward: The reward of the action.
        ended: Whether the episode ended.
        info: The info of the environment's step.
    """

    frame: Frame | None
    observation: Any
    distribution: Any
    sample: NDArray[Any]
    action: Any
    value: float
    before: Tensor
    after: Tensor
    reward: float
    ended: bool
    info: dict[str, Any]


def play(
    agent: LoadedAgent,
    env: VecEnv,
    render: Callable[[], Frame] | None,
    *,
    max_steps: int,
    deterministic: bool,
    use_masks: UseMasks = "auto",
) -> Iterator[Step]:
    """Plays in a single environment and yields each step.

    Args:
        agent: The agent.
        env: One environment.
        render: Returns the environment's current frame; None if it does not render.
        max_steps: Number of steps.
        deterministic: Take the most likely action instead of a sample.
        use_masks: Whether to use the environment's action masks.
    """
    policy = agent.policy
    size = policy.core.state_size  # of the actor's core, which comes first
    observations: Any = env.reset()
    reader = ActionMaskReader(env, use_masks)
    masks = reader.reset()
    state, resets = policy.initial_state(1), torch.ones(1, dtype=torch.bool, device=policy.device)
    for _ in range(max_steps):
        frame = None if render is None else render()
        state = state.masked_fill(resets.unsqueeze(1), 0)
        tensors, _ = policy.obs_to_tensor(agent.normalized(observations))
        allowed = None if masks is None else torch.from_numpy(masks).to(policy.device)
        with torch.no_grad():
            distribution, _ = policy.action_distribution(tensors, state[:, :size], resets, allowed)
            actions, values, _, after = policy.step(tensors, state, resets, deterministic, allowed)
        sample = actions.cpu().numpy()
        action = policy.action_converter(sample)
        following, rewards, dones, infos = env.step(action)
        masks = reader.step(infos, dones)
        yield Step(
            frame,
            observations,
            distribution.distribution,
            sample[0],
            action[0],
            float(values[0]),
            state[:, :size],
            after[:, :size],
            float(np.asarray(rewards)[0]),
            bool(dones[0]),
            infos[0],
        )
        observations, state, resets[0] = following, after, bool(dones[0])
