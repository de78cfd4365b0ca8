"""What callbacks see and change of a rollout, compared with RecurrentPPO."""

import numpy as np
import pytest
import torch
from sb3_contrib import RecurrentPPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env

from ntm_rl.agents import MemoryPPO
from small_models import lstm_model

CARTPOLE = "CartPole-v1"


class Reader(BaseCallback):
    """Keeps the locals of every step and copies of what the buffer shows at the end of a rollout."""

    def __init__(self):
        super().__init__()
        self.steps, self.blocks, self.positions = [], {}, []

    def _on_step(self) -> bool:
        self.steps.append(dict(self.locals))
        self.positions.append((self.model.rollout_buffer.pos, self.locals["n_steps"], self.model.rollout_buffer.full))
        return True

    def _on_rollout_end(self) -> None:
        buffer = self.model.rollout_buffer
        assert buffer is self.locals["rollout_buffer"] and buffer.full and buffer.pos == buffer.size() == 16
        self.blocks = {name: np.copy(getattr(buffer, name)) for name in BLOCKS}
        self.sizes = buffer.buffer_size, buffer.n_envs, buffer.obs_shape, buffer.action_dim, buffer.gamma
        self.last_values = self.locals["values"]


BLOCKS = ["observations", "actions", "rewards", "values", "log_probs", "advantages", "returns", "episode_starts"]


@pytest.mark.parametrize("env_id", [CARTPOLE, "Pendulum-v1"])
def test_callbacks_read_the_locals_and_the_buffer_of_recurrent_ppo(env_id):
    seen = {}
    for algorithm in (RecurrentPPO, MemoryPPO):
        seen[algorithm] = Reader()
        sizes = dict(n_steps=16, batch_size=32, gae_lambda=0.95)
        lstm_model(make_vec_env(env_id, 2, seed=0), algorithm, **sizes).learn(32, seen[algorithm])
    theirs, ours = seen[RecurrentPPO], seen[MemoryPPO]
    assert set(theirs.steps[0]) - set(ours.steps[0]) == {"lstm_states"}  # ours is one tensor, `state`
    for key in ("actions", "clipped_actions", "rewards", "dones", "new_obs", "obs_tensor", "values", "log_probs"):
        their, our = theirs.steps[3][key], ours.steps[3][key]
        assert type(their) is type(our) and their.shape == our.shape and their.dtype == our.dtype, key
    assert ours.positions == theirs.positions
    assert ours.sizes == theirs.sizes
    assert ours.last_values.shape == (2, 1)
    for name in BLOCKS:
        assert ours.blocks[name].shape == theirs.blocks[name].shape, name
    for index, step in enumerate(ours.steps):
        np.testing.assert_array_equal(ours.blocks["actions"][index], step["actions"].reshape(2, 1))
        np.testing.assert_array_equal(ours.blocks["observations"][index], step["obs_tensor"].numpy())
        np.testing.assert_array_equal(ours.blocks["values"][index], step["values"].numpy().ravel())
        np.testing.assert_array_equal(ours.blocks["episode_starts"][index], step["episode_starts"].numpy())
    np.testing.assert_allclose(
        ours.blocks["returns"], ours.blocks["advantages"] + ours.blocks["values"], rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize(("gae_lambda", "of_advantages", "of_returns"), [(0.9, 0.9, 0.9), ("auto", 0.5, 0.95)])
def test_rewards_that_a_callback_changes_are_learned_from_as_in_sb3(gae_lambda, of_advantages, of_returns):
    class Bonus(BaseCallback):
        def _on_step(self) -> bool:
            return True

        def _on_rollout_end(self) -> None:
            buffer = self.model.rollout_buffer
            buffer.rewards += 1.0
            buffer.compute_returns_and_advantage(self.locals["values"], self.locals["dones"])
            self.found = buffer.advantages.copy(), buffer.returns.copy()
            self.expected = self.peer(of_advantages).advantages, self.peer(of_returns).returns

        def peer(self, value: float) -> RolloutBuffer:
            buffer, model = self.model.rollout_buffer, self.model
            peer = RolloutBuffer(8, model.observation_space, model.action_space, "cpu", value, 0.99, 2)
            peer.rewards, peer.values, peer.episode_starts = buffer.rewards, buffer.values, buffer.episode_starts
            peer.compute_returns_and_advantage(self.locals["values"], self.locals["dones"])
            return peer

    callback = Bonus()
    model = lstm_model(make_vec_env(CARTPOLE, 2, seed=0), n_steps=8, batch_size=16, gae_lambda=gae_lambda)
    model.learn(16, callback)
    np.testing.assert_array_equal(model.rollout.rewards, 2)
    for expected, found in zip(callback.expected, callback.found, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_the_buffer_lists_its_attributes_for_an_unknown_name():
    buffer = lstm_model(n_steps=8).rollout_buffer
    with pytest.raises(AttributeError, match=r"rollout_buffer.hidden_states_pi: .*observations, actions, rewards"):
        buffer.hidden_states_pi  # noqa: B018
    with pytest.raises(AttributeError, match=r"rollout_buffer.pos"):
        buffer.pos = 3
    buffer.advantages = np.full((8, 1), 2.0)
    assert buffer.rollout.advantages.tolist() == [[2.0]] * 8


def test_a_callback_that_stops_inside_a_rollout_loses_nothing():
    class Stop(BaseCallback):
        def _on_step(self) -> bool:
            self.seen = self.locals["new_obs"].copy(), self.locals["dones"].copy(), self.locals["state"].clone()
            return not self.locals["dones"].any()

    stop, model = Stop(), lstm_model(make_vec_env(CARTPOLE, 2, seed=0), n_steps=64, batch_size=64)
    model.learn(6400, stop)
    observations, dones, state = stop.seen
    assert dones.any() and not dones.all() and model.num_timesteps < 128
    assert len(model.ep_info_buffer) == 1
    np.testing.assert_array_equal(model._last_obs, observations)
    np.testing.assert_array_equal(model._last_episode_starts, dones)
    assert torch.equal(model.memory_state, state)
    model.learn(64, reset_num_timesteps=False)
    np.testing.assert_array_equal(model.rollout.observations[0].numpy(), observations)
    assert model.rollout.resets[0].tolist() == dones.tolist() and not model.rollout.resets[1].any()
    assert torch.equal(model.rollout.states[0], state)
