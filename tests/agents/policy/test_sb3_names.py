"""Names and options of SB3's policies are answered with ours."""

import pytest
from gymnasium import spaces
from sb3_contrib import RecurrentPPO
from stable_baselines3.common.envs import SimpleMultiObsEnv

from ntm_rl.agents import CnnNtmPolicy, MemoryPPO, MlpNtmPolicy, MultiInputNtmPolicy
from ntm_rl.errors import InputError
from small_models import lstm_model

CARTPOLE = "CartPole-v1"


@pytest.mark.parametrize("algorithm", [MemoryPPO, RecurrentPPO])
@pytest.mark.parametrize(
    ("options", "equivalent"),
    [
        (dict(lstm_hidden_size=64), r"core='lstm', core_kwargs=dict\(hidden_size=64\)\)$"),
        (dict(n_lstm_layers=2), r"core_kwargs=dict\(layers=2\)"),
        (dict(shared_lstm=True, enable_critic_lstm=False), "critic='detached'"),
        (dict(enable_critic_lstm=True), "critic='separate'"),
        (dict(enable_critic_lstm=False), "a critic without memory does not exist here; critic must be 'shared'"),
        (dict(lstm_kwargs=dict(dropout=0.1)), "`ntm-rl list cores` shows the core_kwargs"),
    ],
)
def test_options_of_lstm_policies_are_answered_with_our_equivalents(algorithm, options, equivalent):
    key = next(iter(options))
    with pytest.raises(
        InputError, match=rf"{key} = .*: for sb3-contrib's LSTM policies; .*policy_kwargs=.*{equivalent}"
    ):
        lstm_model(algorithm=algorithm, policy_kwargs=options)


def test_our_equivalents_of_lstm_options_build_that_lstm():
    options = dict(core="lstm", core_kwargs=dict(hidden_size=64, layers=2), critic="separate")
    policy = lstm_model(policy_kwargs=options).policy
    assert policy.core.network.hidden_size == policy.critic_core.network.hidden_size == 64
    assert policy.core.network.num_layers == 2


@pytest.mark.parametrize("prefix", ["Mlp", "Cnn", "MultiInput"])
@pytest.mark.parametrize("suffix", ["Policy", "LstmPolicy"])
def test_names_of_sb3s_policies_are_answered_with_ours(prefix, suffix):
    with pytest.raises(InputError, match=rf"policy = '{prefix}{suffix}'.*use '{prefix}NtmPolicy'.*core='lstm'"):
        MemoryPPO(prefix + suffix, CARTPOLE)


def test_an_unknown_policy_is_answered_with_the_nearest_and_an_alias_of_the_users_own_works(monkeypatch):
    with pytest.raises(InputError, match=r"policy = 'MlpNtm': unknown policy; .*Did you mean MlpNtmPolicy\?"):
        MemoryPPO("MlpNtm", CARTPOLE)

    class OwnLstmPolicy(MlpNtmPolicy):
        pass

    monkeypatch.setitem(MemoryPPO.policy_aliases, "OwnLstmPolicy", OwnLstmPolicy)
    assert type(MemoryPPO("OwnLstmPolicy", CARTPOLE).policy) is OwnLstmPolicy


@pytest.mark.parametrize("algorithm", [MemoryPPO, RecurrentPPO])
@pytest.mark.parametrize("policy", ["MlpNtmPolicy", "CnnNtmPolicy"])
def test_dict_observations_are_answered_with_the_policy_that_reads_them(algorithm, policy):
    message = f"You must use `MultiInputNtmPolicy` when working with dict observation space, not {policy}"
    with pytest.raises(InputError, match=message):
        algorithm(policy, SimpleMultiObsEnv(random_start=False))


@pytest.mark.parametrize(
    ("policy", "space", "message"),
    [
        (MultiInputNtmPolicy, spaces.Box(-1, 1, (3,)), "MultiInputNtmPolicy: is for Dict observations; use MlpNtm"),
        (CnnNtmPolicy, spaces.Box(-1, 1, (3,)), "CnnNtmPolicy: is for images; use MlpNtmPolicy"),
        (CnnNtmPolicy, spaces.Discrete(3), "CnnNtmPolicy: is for images; use MlpNtmPolicy"),
    ],
)
def test_observations_of_another_kind_are_answered_with_the_policy_that_reads_them(policy, space, message):
    with pytest.raises(InputError, match=message):
        policy(space, spaces.Discrete(2), lambda _: 1e-3)
