"""Policies that begin with the network of another run."""

import numpy as np
import pytest
import torch

from ntm_rl.agents.policy.files import load_agent
from ntm_rl.agents.policy.network_files import load_network
from ntm_rl.agents.ppo.making import make_model
from ntm_rl.agents.ppo.warm_start import warm_start
from ntm_rl.agents.training import train
from ntm_rl.envs import EnvSettings, make_vec_env
from ntm_rl.envs.algorithmic.registry import make_task
from ntm_rl.errors import InputError
from small_trainings import copy_ppo_settings, train_copy


def test_a_warm_started_policy_answers_as_the_supervised_network_does(tmp_path):
    run = train_copy(tmp_path)
    network, _ = load_network(run.agent)
    settings = copy_ppo_settings(tmp_path)
    env = make_vec_env(EnvSettings("ntm_rl/Copy-v0", kwargs={"bits": 2, "max_length": 3}), 16, 0)
    policy = make_model(settings, env).policy
    warm_start(policy, run)
    inputs = torch.from_numpy(make_task("copy", bits=2).sample(4, np.random.default_rng(0)).inputs)
    state, resets = policy.initial_state(4), torch.ones(4, dtype=torch.bool)
    expected = (network(inputs) > 0).float()
    for step in range(len(inputs)):
        actions, _, _, state = policy.step(inputs[step], state, resets, deterministic=True)
        resets = torch.zeros(4, dtype=torch.bool)
        assert torch.equal(actions.float(), expected[step])


def test_a_training_begins_with_the_weights_of_init_from(tmp_path):
    supervised_run = train_copy(tmp_path).path
    overrides = (f"policy.init_from={supervised_run}", "total_timesteps=1024", "ppo.learning_rate=1e-12")
    result = train(copy_ppo_settings(tmp_path, *overrides), "algorithmic/copy_ppo", show_progress=False)
    again = train(
        copy_ppo_settings(tmp_path, f"policy.init_from={result.run}", *overrides[1:]),
        "algorithmic/copy_ppo",
        show_progress=False,
    )
    network, _ = load_network(supervised_run / "agent")
    for run in (result.run, again.run):
        core = load_agent(run / "agent", "cpu").policy.core
        assert torch.allclose(core.weight_input, network.core.weight_input, atol=1e-6)


def test_a_run_that_does_not_fit_is_refused(tmp_path):
    run = train_copy(tmp_path).path
    with pytest.raises(InputError, match=r"tensor '.*' has shape .* was the config changed"):
        train(copy_ppo_settings(tmp_path, f"policy.init_from={run}", "memory.ntm.width=5"), "x", show_progress=False)
    with pytest.raises(InputError, match="no such folder"):
        train(copy_ppo_settings(tmp_path, "policy.init_from=nowhere"), "x", show_progress=False)
