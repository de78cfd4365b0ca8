"""With RL Zoo's Atari settings, MemoryPPO and its environments compute what SB3's PPO and `make_atari_env` compute."""

from collections.abc import Iterator

import ale_py  # noqa: F401  (registers the ids that SB3 makes)
import numpy as np
import pytest
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_atari_env
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecFrameStack
from torch import nn

from ntm_rl.agents.ppo.making import make_model
from ntm_rl.agents.settings.loading import load_settings
from ntm_rl.envs.sb3.making import make_vec_env

STEPS, ENVS, ROLLOUTS = 32, 4, 3
SMALL = (
    f"n_envs={ENVS}",
    f"ppo.n_steps={STEPS}",
    "ppo.batch_size=32",
    f"total_timesteps={(ROLLOUTS + 1) * STEPS * ENVS}",
)
SIZE, MAX_FRAMES = 36, 240
SMALL += (f"env.kwargs.size={SIZE}", f"env.kwargs.max_frames={MAX_FRAMES}", "env.kwargs.noop_max=0", "device=cpu")
ESTIMATES = ("rewards", "values", "log_probs", "advantages", "returns")
METRICS = ("loss", "policy_gradient_loss", "value_loss", "entropy_loss", "approx_kl", "clip_fraction", "clip_range")
METRICS += ("learning_rate",)
TOLERANCE = dict(rtol=1e-10, atol=1e-10)


class Float64Buffer(RolloutBuffer):
    """SB3's rollout buffer with float64 estimates, which is float32 otherwise."""

    def reset(self) -> None:
        super().reset()
        for name in ESTIMATES:
            setattr(self, name, getattr(self, name).astype(np.float64))


def peer_of(settings, **kwargs) -> PPO:
    """SB3's PPO and environments as RL Zoo configures them, without no-ops, whose number is random."""
    env = make_atari_env(
        "BreakoutNoFrameskip-v4",
        n_envs=ENVS,
        wrapper_kwargs={"noop_max": 0, "screen_size": SIZE},
        env_kwargs={"max_num_frames_per_episode": MAX_FRAMES},
    )
    return PPO(
        "CnnPolicy",
        VecFrameStack(env, n_stack=4),
        n_steps=STEPS,
        batch_size=32,
        n_epochs=4,
        learning_rate=LinearSchedule(2.5e-4, 0, 1),
        clip_range=LinearSchedule(0.1, 0, 1),
        vf_coef=0.5,
        ent_coef=0.01,
        seed=settings.seed,
        device="cpu",
        **kwargs,
    )


class Record(BaseCallback):
    """Keeps the rollouts, the gradients of all minibatches, and the metrics and weights after each update."""

    def _init_callback(self) -> None:
        self.rollouts, self.gradients, self.metrics, self.weights = [], [], [], []
        policy = self.model.policy
        policy.optimizer.register_step_pre_hook(
            lambda *_: self.gradients.append([each.grad.clone() for each in policy.parameters()])
        )

    def _on_step(self) -> bool:
        return len(self.rollouts) < ROLLOUTS  # at its end, SB3's schedule has a clipping range of 0

    def _on_rollout_start(self) -> None:
        self._keep_update()

    def _on_rollout_end(self) -> None:
        buffer = self.model.rollout_buffer
        self.rollouts.append(
            [np.array(getattr(buffer, name)) for name in (*ESTIMATES, "observations", "episode_starts")]
        )

    def _keep_update(self) -> None:
        values = self.logger.name_to_value
        self.metrics.append([values[f"train/{name}"] for name in METRICS if f"train/{name}" in values])
        self.weights.append([each.detach().clone() for each in self.model.policy.parameters()])


def in_double(policy: nn.Module) -> None:
    """Computes in float64, after the conversion of images to float32."""
    policy.double()
    policy.features_extractor.cnn.register_forward_pre_hook(lambda module, inputs: inputs[0].double())


def double(block: np.ndarray | torch.Tensor) -> np.ndarray | torch.Tensor:
    return block.double() if isinstance(block, torch.Tensor) else block.astype(np.float64)


def shared_orders(monkeypatch) -> None:
    """Shuffles the transitions `step * ENVS + env` alike; in SB3's buffer they have the index `env * STEPS + step`."""
    ours, theirs = np.random.default_rng(0), np.random.default_rng(0)

    def permutation(count: int) -> np.ndarray:
        step, env = np.divmod(theirs.permutation(count), ENVS)
        return env * STEPS + step

    monkeypatch.setattr(torch, "randperm", lambda count: torch.from_numpy(ours.permutation(count)))
    monkeypatch.setattr(np.random, "permutation", permutation)


def learned(model, total_timesteps: int) -> Record:
    record = Record()
    model.set_logger(Logger(None, []))
    model.learn(total_timesteps, record, log_interval=10**9)
    return record


def replay_actions(monkeypatch, peer: PPO, actions: list[np.ndarray]) -> None:
    queue: Iterator[np.ndarray] = iter(actions)
    monkeypatch.setattr(peer.policy.action_dist, "sample", lambda: torch.from_numpy(next(queue)))


def pairs(ours: list, theirs: list) -> Iterator:
    for mine, other in zip(ours, theirs, strict=True):
        yield from zip(mine, other, strict=True)


def test_observations_rollouts_gradients_and_weights_are_those_of_sb3s_ppo_in_float64(monkeypatch):
    settings = load_settings("atari/sb3_zoo", SMALL)
    model = make_model(settings, make_vec_env(settings.env_settings, ENVS, settings.seed))
    for name in ESTIMATES:
        setattr(model.rollout, name, double(getattr(model.rollout, name)))
    peer = peer_of(settings, rollout_buffer_class=Float64Buffer)
    missing, unexpected = peer.policy.load_state_dict(model.policy.state_dict(), strict=False)
    assert not missing and all(name.startswith(("return_scale", "core.")) for name in unexpected)
    for policy in (model.policy, peer.policy):
        in_double(policy)
    shared_orders(monkeypatch)
    actions, step_async = [], model.env.step_async
    monkeypatch.setattr(model.env, "step_async", lambda each: (actions.append(each.copy()), step_async(each)))
    ours = learned(model, settings.total_timesteps)
    replay_actions(monkeypatch, peer, actions)
    theirs = learned(peer, settings.total_timesteps)

    assert len(ours.rollouts) == len(theirs.rollouts) == ROLLOUTS
    for found, expected in pairs(ours.rollouts, theirs.rollouts):
        np.testing.assert_allclose(found, expected, **TOLERANCE)
    for found, expected in pairs(ours.gradients, theirs.gradients):
        torch.testing.assert_close(found, expected, **TOLERANCE)
    assert len(ours.gradients) == ROLLOUTS * 4 * STEPS * ENVS // 32
    for found, expected in pairs(ours.metrics[1:], theirs.metrics[1:]):
        assert found == pytest.approx(expected, rel=1e-6, abs=1e-9)  # SB3 logs float32
    for found, expected in pairs(ours.weights, theirs.weights):
        torch.testing.assert_close(found, expected, **TOLERANCE)
    assert max((last - first).abs().max() for last, first in zip(ours.weights[-1], ours.weights[0], strict=True)) > 1e-3
    starts = np.concatenate([rollout[-1] for rollout in ours.rollouts])
    assert starts[1:].sum() > ENVS  # lives and games have ended


def test_initial_weights_are_those_of_sb3s_ppo_with_the_same_seed():
    settings = load_settings("atari/sb3_zoo", SMALL)
    model = make_model(settings, make_vec_env(settings.env_settings, ENVS, settings.seed))
    ours, theirs = (dict(each.policy.named_parameters()) for each in (model, peer_of(settings)))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(weight, theirs[name]) for name, weight in ours.items())
