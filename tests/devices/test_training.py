"""Trainings on a device against the CPU, and how often they wait for the device."""

import copy
import statistics
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_contrib import RecurrentPPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from masked_envs import Strict
from ntm_rl.agents import MemoryPPO
from ntm_rl.agents.policy.policies import policy_class_for
from ntm_rl.cores.registry import core_names, core_options
from stand_in_device import NAME, take_waits

BOX, IMAGE = spaces.Box(-1, 1, (3,), np.float32), spaces.Box(0, 255, (36, 36, 3), np.uint8)
SIZES = {"n_steps": 16, "batch_size": 24, "sequence_length": 8, "n_epochs": 2, "seed": 0}
ENVS = 3


class Noise(gym.Env):
    """Random observations; episodes of 7 steps, of which every other one is truncated."""

    def __init__(self, observations: spaces.Space[Any], actions: spaces.Space[Any]):
        self.observation_space, self.action_space = copy.deepcopy(observations), actions
        self.episodes = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.time = 0
        return self.observation_space.sample(), {}

    def step(self, action):
        assert self.action_space.contains(action)
        self.time += 1
        is_over = self.time == 7
        self.episodes += is_over
        is_truncated = is_over and self.episodes % 2 == 0
        return self.observation_space.sample(), 1.0, is_over and not is_truncated, is_truncated, {}


# Environment, arguments of the algorithm and of the policy.
KINDS: dict[str, tuple[Any, dict[str, Any], dict[str, Any]]] = {
    "discrete": (partial(Noise, spaces.Discrete(5), spaces.Discrete(3, start=2)), {}, {}),
    "box": (partial(Noise, BOX, spaces.Box(-1, 1, (2,), np.float32)), {}, {}),
    "sde": (partial(Noise, BOX, spaces.Box(-1, 1, (2,), np.float32)), {"use_sde": True, "sde_sample_freq": 4}, {}),
    "multi-discrete": (partial(Noise, BOX, spaces.MultiDiscrete([3, 2])), {}, {}),
    "multi-binary": (partial(Noise, BOX, spaces.MultiBinary(3)), {}, {}),
    "image": (partial(Noise, IMAGE, spaces.Discrete(3)), {}, {"features_extractor_kwargs": {"features_dim": 8}}),
    "dict": (partial(Noise, spaces.Dict(image=IMAGE, box=BOX), spaces.Discrete(3)), {}, {}),
    "separate": (partial(Noise, BOX, spaces.Discrete(3)), {"recompute_states": True}, {"critic": "separate"}),
    "clipped": (
        partial(Noise, BOX, spaces.Discrete(3)),
        {"target_kl": 1.0, "clip_range_vf": 0.2, "gae_lambda": 0.9},
        {"critic": "detached"},
    ),
    **{
        f"masks of {kind}": (partial(Strict, kind), {"action_masks": True}, {}) for kind in ("discrete", "multi_binary")
    },
}


def make_model(
    device: torch.device, kind: str = "discrete", core: str = "lstm", algorithm: Any = MemoryPPO, **kwargs: Any
) -> Any:
    make_env, arguments, policy = KINDS[kind]
    env: Any = DummyVecEnv([make_env] * ENVS)
    if kind == "box":
        env = VecNormalize(env)
    env.seed(0)
    options = {"hidden_size": 8, **({"backend": "eager"} if "backend" in core_options(core) else {})}
    policy = {"core": core, "core_kwargs": options, "net_arch": [8], **policy, **kwargs.pop("policy_kwargs", {})}
    if algorithm is RecurrentPPO:
        arguments = {"n_steps": 16, "batch_size": 24, "n_epochs": 1, "seed": 0}
    else:
        arguments = {**SIZES, **arguments, **kwargs}
    name = policy_class_for(env.observation_space).__name__
    return algorithm(name, env, device=device, policy_kwargs=policy, **arguments)


class Waits(BaseCallback):
    """Counts how often rollout steps, the ends of rollouts and updates wait for the stand-in."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[int] = []
        self.ends: list[int] = []
        self.updates: list[int] = []

    def _on_training_start(self) -> None:
        take_waits()

    def _on_rollout_start(self) -> None:
        self.updates.append(len(take_waits()))

    def _on_step(self) -> bool:
        self.steps.append(len(take_waits()))
        return True

    def _on_rollout_end(self) -> None:
        self.ends.append(len(take_waits()))


@pytest.mark.parametrize("kind", KINDS)
def test_a_training_runs_and_its_agent_acts_on_the_cpu(kind, device, tmp_path):
    model = make_model(device, kind).learn(96)
    env = model.get_env()
    masks = {} if model._masks is None else {"action_masks": model._masks}
    actions, _ = model.predict(env.reset(), deterministic=True, **masks)
    model.save(tmp_path / "model.zip")
    loaded = MemoryPPO.load(tmp_path / "model.zip", device="cpu")
    assert all(each.device.type == "cpu" for each in loaded.policy.parameters())
    assert loaded.predict(env.reset(), deterministic=True, **masks)[0].shape == actions.shape
    MemoryPPO.load(tmp_path / "model.zip", env=env, device=device).learn(48)


@pytest.mark.parametrize("core", core_names())
def test_a_rollout_and_an_update_are_those_of_the_cpu(core, device):
    """Actions are the most likely ones, as devices draw other random numbers; SGD, as Adam divides by the gradient."""
    policy = {"optimizer_class": torch.optim.SGD}
    models = [make_model(each, "separate", core, policy_kwargs=policy) for each in (torch.device("cpu"), device)]
    for model in models:
        step = model.policy.step
        model.policy.step = lambda obs, state, resets, _, masks, step=step: step(obs, state, resets, True, masks)
        torch.manual_seed(0)
        model.learn(1)
    on_cpu, other = models
    assert torch.equal(other.rollout.actions.cpu(), on_cpu.rollout.actions)
    for name in ("values", "log_probs", "advantages", "returns", "states"):
        found, expected = (getattr(model.rollout, name).cpu() for model in (other, on_cpu))
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    pairs = zip(other.policy.state_dict().items(), on_cpu.policy.state_dict().values(), strict=True)
    for (name, found), expected in pairs:
        torch.testing.assert_close(
            found.cpu(), expected, rtol=1e-3, atol=5e-4, msg=lambda text, name=name: f"{name}: {text}"
        )


# Action distributions of torch check their parameters on the host, which categorical ones of this package do not.
STEP_WAITS = {"discrete": 1, "image": 1, "separate": 1, "masks of discrete": 1, "box": 4, "multi-discrete": 5}


@pytest.mark.parametrize("kind", STEP_WAITS)
def test_a_training_seldom_waits_for_the_device(kind, device):
    if device.type != NAME:
        pytest.skip("the stand-in counts")
    waits = Waits()
    make_model(device, kind).learn(144, waits)
    assert min(waits.steps) == statistics.median(waits.steps) == STEP_WAITS[kind]  # more where episodes are truncated
    if STEP_WAITS[kind] == 1:
        assert waits.ends == [11] * 3 and waits.updates == [0, 11, 11]  # an update has four minibatches


def test_policies_train_in_sb3_contribs_algorithm(device):
    model = make_model(device, algorithm=RecurrentPPO).learn(96)
    assert next(model.policy.parameters()).device == device
