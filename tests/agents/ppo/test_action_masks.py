"""Trainings, evaluations and predictions with action masks, in environments that raise for an excluded action."""

from functools import partial

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_contrib import RecurrentPPO
from sb3_contrib.common.maskable.evaluation import evaluate_policy
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from masked_envs import SPACES, Strict, StrictVector, one_hot
from ntm_rl import MemoryPPO
from ntm_rl.agents.policy.files import load_agent, save_agent
from ntm_rl.agents.ppo.checkpoints import load_checkpoint, save_checkpoint
from ntm_rl.envs import PreviousStep, PreviousStepVector, VectorEnvAdapter
from ntm_rl.envs.sb3.workers import WorkerVecEnv
from ntm_rl.errors import InputError
from small_models import lstm_model

SMALL = dict(n_steps=32, sequence_length=8, batch_size=32, n_epochs=2)


def model_on(env, policy: str = "MlpNtmPolicy", **kwargs) -> MemoryPPO:
    return lstm_model(env, policy=policy, **{**SMALL, "action_masks": True, **kwargs})


def weights(model) -> torch.Tensor:
    return torch.nn.utils.parameters_to_vector(model.policy.parameters()).detach().clone()


ENVIRONMENTS = {
    "dummy": lambda kind, offers: DummyVecEnv([partial(Strict, kind, offers)] * 3),
    "normalized": lambda kind, offers: VecNormalize(DummyVecEnv([partial(Strict, kind, offers)] * 3)),
    "previous": lambda kind, offers: DummyVecEnv([lambda: PreviousStep(Strict(kind, offers))] * 3),
    "native": lambda kind, offers: VectorEnvAdapter(StrictVector(3, kind, offers)),
    "native previous": lambda kind, offers: VectorEnvAdapter(PreviousStepVector(StrictVector(3, kind, offers))),
}


@pytest.mark.parametrize("kind", SPACES)
@pytest.mark.parametrize(
    ("name", "offers"),
    [*((name, "method") for name in ENVIRONMENTS), ("previous", "info"), ("native previous", "info")],
)
def test_no_excluded_action_is_taken_or_trained_on(name, offers, kind):
    policy = "MultiInputNtmPolicy" if "previous" in name else "MlpNtmPolicy"
    model = model_on(ENVIRONMENTS[name](kind, offers), policy, gae_lambda="auto", recompute_states=True)
    model.learn(3 * 32 * 2)
    rollout = model.rollout
    assert rollout.action_masks is not None and not rollout.action_masks.all()
    taken = rollout.actions.flatten(0, 1).numpy()
    masks = rollout.action_masks.flatten(0, 1).numpy()
    space = spaces.MultiDiscrete(SPACES[kind].nvec) if kind == "multi_discrete" else SPACES[kind]
    assert not (one_hot(space, taken + getattr(space, "start", 0)) & ~masks).any()
    assert torch.isfinite(weights(model)).all() and rollout.log_probs.exp().max() <= 1 + 1e-6


class Kill(BaseCallback):
    """Kills a worker in step 5."""

    def _on_step(self):
        if self.n_calls == 5:
            self.training_env.unwrapped.processes[1].kill()
        return True


def test_worker_processes_and_their_restarts_keep_masks(capfd):
    env = VecNormalize(WorkerVecEnv([Strict] * 2, 60.0, True))
    model_on(env).learn(64, Kill())
    env.close()
    assert "environment 1 ended with exit code -9, at action" in capfd.readouterr().err


class Keep(BaseCallback):
    """Keeps the minibatches' masks and the rollout's, by index."""

    def _on_step(self):
        return True

    def _on_rollout_end(self):
        rollout = self.model.rollout
        for batch in rollout.minibatches(32):
            for column, index in enumerate(batch.indices.tolist()):
                number, env = divmod(index, rollout.n_envs)
                expected = rollout.action_masks[number * 8 : number * 8 + 8, env]
                found = batch.action_masks.unflatten(0, (8, -1))[:, column]
                assert torch.equal(found, expected)
                taken = batch.actions.unflatten(0, (8, -1))[:, column]
                assert found.gather(1, taken.unsqueeze(1)).all()


def test_minibatches_have_the_masks_of_their_steps():
    model_on(ENVIRONMENTS["native"]("discrete", "method")).learn(96, Keep())


def test_stored_log_probabilities_are_those_of_the_update_before_its_first_step():
    """The masked distribution is the same in rollout and update, so that ratios begin at 1."""
    model = model_on(ENVIRONMENTS["dummy"]("multi_discrete", "method"), n_epochs=1, batch_size=None)
    model.learn(96)
    recorded = model.logger.name_to_value
    assert recorded["train/approx_kl"] == pytest.approx(0, abs=1e-6) and recorded["train/clip_fraction"] == 0


class Episode(gym.Env):
    """Episodes of three steps, whose masks leave 1, 2 and 3 of three actions."""

    observation_space, action_space = spaces.Box(-1, 1, (2,), np.float32), spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        self.time = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.time += 1
        return np.zeros(2, np.float32), 1.0, self.time == 3, False, {}

    def action_masks(self):
        return np.arange(3) <= self.time % 3


def test_log_probabilities_and_entropies_of_a_hand_computed_episode():
    """Of a policy without weights in its last layer, which is uniform over the allowed actions."""
    model = model_on(Episode(), n_steps=6, sequence_length=3, batch_size=6, n_epochs=1)
    torch.nn.init.zeros_(model.policy.action_net.weight)
    model.learn(6)
    expected = [0, -np.log(2), -np.log(3)] * 2
    np.testing.assert_allclose(model.rollout.log_probs[:, 0], expected, atol=1e-6)
    assert model.rollout.actions[[0, 3], 0].tolist() == [0, 0] and model.rollout.actions[[1, 4], 0].max() <= 1
    assert model.logger.name_to_value["train/entropy_loss"] == pytest.approx(np.mean(expected), abs=1e-6)


@pytest.mark.parametrize("offers", ["method", "info"])
@pytest.mark.parametrize("name", ["native", "native previous"])
def test_a_resumed_training_is_bit_identical(name, offers, tmp_path):
    policy = "MultiInputNtmPolicy" if "previous" in name else "MlpNtmPolicy"

    def trained():
        return model_on(ENVIRONMENTS[name]("multi_binary", offers), policy, learning_rate=1e-3).learn(96)

    whole = trained().learn(96, reset_num_timesteps=False)
    path = save_checkpoint(trained(), tmp_path)
    resumed = trained().learn(96, reset_num_timesteps=False)  # elsewhere
    load_checkpoint(path, resumed)
    resumed.learn(96, reset_num_timesteps=False)
    assert torch.equal(weights(resumed), weights(whole))


def test_damaged_masks_in_a_checkpoint_are_refused(tmp_path):
    model = model_on(ENVIRONMENTS["native"]("discrete", "info")).learn(96)
    model._masks = model._masks[:, :3].copy()
    path = save_checkpoint(model, tmp_path)
    with pytest.raises(InputError, match=r"state 'action_masks': must be an array \[3, 5\] of bool"):
        load_checkpoint(path, model_on(ENVIRONMENTS["native"]("discrete", "info")))


def test_masks_are_used_if_there_are_some_and_said_once():
    model = model_on(ENVIRONMENTS["dummy"]("discrete", "info"), action_masks="auto", learning_rate=1e-3)
    with pytest.warns(UserWarning, match="the environment's action masks are used; action_masks=True requires them"):
        model.learn(96)
    model.learn(96, reset_num_timesteps=False)
    assert model.rollout.action_masks is not None
    plain = model_on("CartPole-v1", action_masks="auto", n_steps=32)
    assert plain.learn(32).rollout.action_masks is None


def test_masks_can_be_ignored_or_required():
    ignored = model_on(DummyVecEnv([lambda: Strict(offers="info")]), action_masks=False)
    with pytest.raises(Exception, match=r"with masks"):
        ignored.learn(500)
    with pytest.raises(InputError, match=r"action_masks = True: the environment has neither a method"):
        model_on("CartPole-v1").learn(32)


def test_a_training_ends_at_the_first_mask_that_the_reset_lacks():
    class Late(Strict):
        def reset(self, **kwargs):
            observation, _ = super().reset(**kwargs)
            self.mask[:] = True
            return observation, {}

    model = model_on(DummyVecEnv([lambda: Late(offers="info")]), action_masks="auto")
    with pytest.raises(
        InputError, match=r"environment 0, step 1: info\['action_mask'\] is present, but was missing at"
    ):
        model.learn(32)


def test_another_value_is_an_error():
    with pytest.raises(InputError, match=r"action_masks = 'on': must be True, False or 'auto'"):
        model_on("CartPole-v1", action_masks="on")


def test_recurrent_ppo_says_once_that_it_ignores_masks():
    class Lenient(Strict):
        def step(self, action):
            self.mask[:] = True
            return super().step(action)

    for offers in ("method", "info"):
        env = DummyVecEnv([lambda offers=offers: Monitor(Lenient(offers=offers))])
        model = lstm_model(env, RecurrentPPO, n_steps=8, batch_size=8)
        with pytest.warns(UserWarning, match=r"RecurrentPPO ignores the environment's action masks") as caught:
            model.learn(24)
        assert len(caught) == 1
    plain = lstm_model("CartPole-v1", RecurrentPPO, n_steps=8, batch_size=8)
    plain.learn(8)


def test_predictions_obey_masks(tmp_path):
    env = ENVIRONMENTS["dummy"]("discrete", "method")
    model = model_on(env).learn(96)
    save_agent(model.policy, tmp_path / "agent")
    observations, masks = np.zeros((2, 3), np.float32), np.eye(5, dtype=bool)[[3, 0]]
    for agent in (model, model.policy, load_agent(tmp_path / "agent", "cpu")):
        assert agent.predict(observations, action_masks=masks)[0].tolist() == [5, 2]
        assert agent.predict(observations[0], action_masks=masks[0])[0] == 5
        assert agent.predict(observations[0], action_masks=[0, 1, 0, 0, 0], deterministic=True)[0] == 3
        assert agent.predict(observations[:1], action_masks=torch.tensor(masks[:1]))[0].tolist() == [5]


def test_a_prediction_without_masks_is_said_once_where_the_training_has_some():
    model = model_on(ENVIRONMENTS["dummy"]("discrete", "method")).learn(96)
    with pytest.warns(UserWarning, match="predict without action_masks may return actions that the environment"):
        model.predict(np.zeros(3, np.float32))
    model.predict(np.zeros(3, np.float32))


def test_a_prediction_without_masks_is_said_before_the_training_where_masks_are_required():
    model = model_on(ENVIRONMENTS["dummy"]("discrete", "info"))
    with pytest.warns(UserWarning, match="predict without action_masks may return actions that the environment"):
        model.predict(np.zeros(3, np.float32))
    model_on("CartPole-v1", action_masks="auto").predict(np.zeros(4, np.float32))


def test_masks_of_box_actions_cannot_be_required():
    with pytest.raises(InputError, match=r"action_masks = True: action masks for Box\(.*\): must be for Discrete"):
        model_on("Pendulum-v1")


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        (np.ones((1, 5)), r"action_masks of 1 observation\(s\): must be of 2"),
        (np.ones(5), r"action_masks of 1 observation\(s\): must be of 2"),
        (np.ones((2, 4)), r"action_masks\[0\]: action mask of 4 values of float64; must be one flat array of 5 bools"),
        (np.array([[1] * 5, [0] * 5]), r"action_masks\[1\]: the action mask allows no action"),
        ([[True] * 5, [True]], r"action_masks\[1\]: action mask of 1 values of bool"),
        (np.full((2, 5), 0.5), r"action_masks\[0\]: action mask of 5 values of float64, not only 0 and 1"),
        (3, r"action_masks of type int: must be an array \[2, 5\] of bools"),
        (np.array(["ab"] * 10).reshape(2, 5), r"action_masks\[0\]: action mask of 5 values of <U2"),
    ],
    ids=str,
)
def test_invalid_masks_of_a_prediction_are_an_error(masks, message):
    model = model_on(ENVIRONMENTS["dummy"]("discrete", "method"))
    with pytest.raises(InputError, match=message):
        model.predict(np.zeros((2, 3), np.float32), action_masks=masks)


def test_predictions_of_box_actions_take_no_masks():
    model = lstm_model("Pendulum-v1")
    with pytest.raises(InputError, match=r"action masks for Box.*: must be for Discrete"):
        model.predict(np.zeros(3, np.float32), action_masks=[True])


def test_sb3_contribs_masked_evaluation_plays_a_memory_model():
    env = DummyVecEnv([lambda: Monitor(Strict("multi_discrete"))])
    mean, _ = evaluate_policy(model_on(env), env, n_eval_episodes=5)
    assert mean > 0


def test_a_saved_model_keeps_its_choice(tmp_path):
    env = ENVIRONMENTS["dummy"]("discrete", "method")
    model_on(env).learn(96).save(tmp_path / "model.zip")
    loaded = MemoryPPO.load(tmp_path / "model.zip", env=env)
    assert loaded.action_masks is True
    loaded.learn(96)
