"""Acting in a rollout: the kernels against `MlpNtmPolicy.step`, and the policies that do not use them."""

from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.distributions import SquashedDiagGaussianDistribution
from stable_baselines3.common.torch_layers import FlattenExtractor
from torch import nn

from ntm_rl.agents import CnnNtmPolicy, MlpNtmPolicy, MultiInputNtmPolicy
from ntm_rl.agents.parallel.ranks import Ranks
from ntm_rl.agents.policy.acting import FusedActor, make_actor
from ntm_rl.cores.recurrent import Lstm
from ntm_rl.cores.registry import core_names
from ntm_rl.kernels.loader import load_kernels

SIZES: dict[str, dict[str, Any]] = {
    "ntm": dict(slots=5, width=3, hidden_size=8),
    "ntm_block": dict(slots=9, width=3, hidden_size=8),
    "lstm": dict(hidden_size=20, layers=2),
    "gru": dict(hidden_size=20, layers=2),
}
ACTIONS = {
    "discrete": spaces.Discrete(3, start=2),
    "box": spaces.Box(-2, 2, (2, 9)),
    "multidiscrete": spaces.MultiDiscrete([2, 3, 40]),
    "multibinary": spaces.MultiBinary(5),
}


@pytest.fixture(autouse=True)
def kernel():
    if not load_kernels():
        pytest.skip("no compiler")


def policy_of(action="discrete", core="lstm", kind=MlpNtmPolicy, observations=None, **kwargs) -> MlpNtmPolicy:
    torch.manual_seed(0)
    space = observations or spaces.Box(-1, 1, (4,))
    kwargs.setdefault("core_kwargs", SIZES.get(core, {}))
    policy = kind(space, ACTIONS[action], lambda _: 1e-3, core=core, **kwargs)
    with torch.no_grad():
        for parameter in policy.parameters():  # the last layers begin near 0
            parameter.add_(0.1 * torch.randn_like(parameter))
        policy.return_scale.mean.fill_(3.0)
        policy.return_scale.std.fill_(2.0)
    policy.set_training_mode(False)
    return policy


def sample_of(space: spaces.Space, batch: int) -> Any:
    space.seed(0)
    samples = [space.sample() for _ in range(batch)]
    if isinstance(space, spaces.Dict):
        return {key: torch.from_numpy(np.stack([each[key] for each in samples])) for key in space.spaces}
    return torch.from_numpy(np.stack(samples))


def assert_equal_steps(policy: MlpNtmPolicy, batch=5, steps=4, rtol=1e-5, atol=2e-6) -> None:
    """Compares actions, values, log probabilities, states and the random generator after each step."""
    actor = make_actor(policy)
    assert isinstance(actor, FusedActor)
    state = expected_state = policy.initial_state(batch)
    for step in range(steps):
        obs, resets = sample_of(policy.observation_space, batch), torch.arange(batch) % 3 == step
        with torch.no_grad():
            torch.manual_seed(step)
            *found, state = actor(obs, state, resets, None)
            generator = torch.get_rng_state()
            torch.manual_seed(step)
            *expected, expected_state = policy.step(obs, expected_state, resets)
        assert found[0].dtype == expected[0].dtype
        torch.testing.assert_close([*found, state], [*expected, expected_state], rtol=rtol, atol=atol)
        assert torch.equal(generator, torch.get_rng_state())


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("batch", [1, 5, 33])
def test_every_action_space_gives_the_same_steps(action, batch):
    assert_equal_steps(policy_of(action), batch)


@pytest.mark.parametrize("core", core_names())
@pytest.mark.parametrize("critic", ["shared", "separate"])
def test_every_core_gives_the_same_steps(core, critic):
    assert_equal_steps(policy_of(core=core, critic=critic))


@pytest.mark.parametrize("activation", [nn.Tanh, nn.ReLU])
@pytest.mark.parametrize("net_arch", [[], [7], {"pi": [70, 33], "vf": []}])
def test_every_network_gives_the_same_steps(activation, net_arch):
    assert_equal_steps(policy_of(net_arch=net_arch, activation_fn=activation))


@pytest.mark.parametrize(
    ("kind", "space"),
    [
        (MlpNtmPolicy, spaces.Discrete(5)),
        (MlpNtmPolicy, spaces.MultiDiscrete([2, 3])),
        (MlpNtmPolicy, spaces.MultiBinary(4)),
        (MlpNtmPolicy, spaces.Box(-1, 1, (2, 3), np.float64)),
        (MlpNtmPolicy, spaces.Box(-1, 1, ())),
        (MultiInputNtmPolicy, spaces.Dict({"card": spaces.Discrete(4), "angle": spaces.Box(-1, 1, (3,))})),
    ],
)
def test_every_observation_space_gives_the_same_steps(kind, space):
    assert_equal_steps(policy_of(kind=kind, observations=space))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_images_give_the_same_steps(precision):
    space, options = spaces.Box(0, 255, (1, 36, 36), np.uint8), {"precision": precision}
    policy = policy_of(kind=CnnNtmPolicy, observations=space, features_extractor_kwargs=options)
    # Kernels of bfloat16 with other layouts round other sums.
    assert_equal_steps(policy, **({} if precision == "fp32" else {"rtol": 0.05, "atol": 0.05}))


@pytest.mark.parametrize("action", ACTIONS)
def test_ranks_draw_the_numbers_of_one_process(action):
    policy = policy_of(action)
    policy.ranks = Ranks(1, 3)
    assert_equal_steps(policy)


def test_changed_parameters_take_effect():
    policy = policy_of()
    actor, obs, state = make_actor(policy), torch.ones(2, 4), policy.initial_state(2)
    resets = torch.zeros(2, dtype=torch.bool)
    with torch.no_grad():
        for parameter in (policy.core.network.weight_ih_l0, policy.value_net.weight):
            parameter.add_(1)
            _, values, _, after = actor(obs, state, resets, None)
            _, expected, _, expected_after = policy.step(obs, state, resets)
            torch.testing.assert_close((values, after), (expected, expected_after))


def fused_adam_step(policy):
    with torch.enable_grad():
        sum(each.square().sum() for each in policy.parameters()).backward()
    policy.optimizer.step()


WRITES = {  # that torch does not count as versions
    "data": lambda policy: [each.data.mul_(0.5) for each in policy.parameters()],
    "other data": lambda policy: policy.load_from_vector(0.5 * policy.parameters_to_vector()),
    "numpy": lambda policy: [np.multiply(each, 0.5, out=each.detach().numpy()) for each in policy.parameters()],
    "optimizer": fused_adam_step,
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_writes_without_a_version_take_effect(write):
    policy = policy_of()
    actor, obs, state, resets = make_actor(policy), torch.ones(2, 4), policy.initial_state(2), torch.zeros(2).bool()
    with torch.no_grad():
        write(policy)
        _, values, _, after = actor(obs, state, resets, None)
        _, expected, _, expected_after = policy.step(obs, state, resets)
    torch.testing.assert_close((values, after), (expected, expected_after))


@pytest.mark.parametrize("action", ACTIONS)
def test_the_default_precision_may_change(action):
    policy = policy_of(action)
    torch.set_default_dtype(torch.float64)
    try:
        assert_equal_steps(policy)
    finally:
        torch.set_default_dtype(torch.float32)


def test_the_actor_reads_its_own_features_extractor():
    policy = policy_of()
    policy.features_extractor = FlattenExtractor(spaces.Box(-1, 1, (9,)))
    policy.pi_features_extractor = nn.Sequential(nn.Flatten(), nn.Linear(4, 4))
    assert_equal_steps(policy)


class Doubled(Lstm):
    """A core that changes another one's outputs."""

    def _run(self, inputs, state, resets):
        outputs, state = super()._run(inputs, state, resets)
        return 2 * outputs, state


def test_a_subclass_of_a_core_takes_its_own_steps():
    policy = policy_of()
    policy.core = Doubled(policy.features_dim, **SIZES["lstm"]).eval()
    assert_equal_steps(policy)


@pytest.mark.parametrize("action", ["box", "multidiscrete", "multibinary"])
def test_values_that_are_not_finite_raise_a_value_error(action):
    policy = policy_of(action)
    with torch.no_grad(), pytest.raises(ValueError, match="not finite"):
        make_actor(policy)(torch.full((2, 4), torch.nan), policy.initial_state(2), torch.zeros(2).bool(), None)


def test_action_masks_are_obeyed():
    policy = policy_of()
    masks = torch.tensor([[False, True, False]]).expand(50, 3)
    with torch.no_grad():
        actions, *_ = make_actor(policy)(torch.ones(50, 4), policy.initial_state(50), torch.zeros(50).bool(), masks)
    assert (actions == 1).all()


class OtherValues(MlpNtmPolicy):
    """A policy with values of its own."""

    def _values(self, latent_vf):
        return super()._values(latent_vf) + 100


def replaced_forward(policy):
    policy.value_net.forward = lambda inputs: inputs[:, :1]


def with_networks(**changed):
    """Returns a policy with other networks or layers of the actor."""
    policy = policy_of(net_arch=[20, 20], activation_fn=nn.Tanh)
    for name, module in changed.items():
        setattr(policy if name == "action_net" else policy.mlp_extractor, name, module)
    return policy


class Residual(nn.Sequential):
    """A network with a path around it."""

    def forward(self, inputs):
        return inputs + super().forward(inputs)


def squashed(policy):
    policy.action_dist = SquashedDiagGaussianDistribution(18)


def layers():
    return nn.Linear(20, 20), nn.Tanh()


UNUSUAL = {
    "a layer without a bias": lambda: with_networks(action_net=nn.Linear(20, 3, bias=False)),
    "a residual network": lambda: with_networks(policy_net=Residual(*layers())),
    "a subclass": lambda: policy_of(kind=OtherValues),
    "other activations": lambda: policy_of(activation_fn=nn.ELU),
    "state-dependent exploration": lambda: policy_of("box", use_sde=True),
    "double precision": lambda: policy_of().double(),
    "separate features extractors": lambda: policy_of(share_features_extractor=False, critic="separate"),
}


@pytest.mark.parametrize("make", UNUSUAL.values(), ids=UNUSUAL)
def test_unusual_policies_act_by_their_own_step(make):
    assert not isinstance(make_actor(make()), FusedActor)


@pytest.mark.parametrize(
    "change",
    [
        lambda policy: policy.value_net.register_forward_hook(lambda *_: None),
        lambda policy: policy.core.register_forward_pre_hook(lambda *_: None),
        replaced_forward,
        lambda policy: setattr(policy, "step", policy.step.__func__),
        lambda policy: setattr(policy, "_logits", policy._logits),
        lambda policy: setattr(policy.mlp_extractor, "forward_actor", policy.mlp_extractor.forward_actor),
        squashed,
    ],
    ids=["hook", "pre-hook", "forward", "step", "logits", "forward_actor", "distribution"],
)
def test_changed_policies_act_by_their_own_step(change):
    policy = policy_of()
    change(policy)
    assert not isinstance(make_actor(policy), FusedActor)


@pytest.mark.parametrize("shared", ["layers", "weights"])
def test_layers_may_repeat(shared):
    first, second = layers(), layers()
    if shared == "weights":
        second[0].weight = first[0].weight
    assert_equal_steps(with_networks(policy_net=nn.Sequential(*first, *(first if shared == "layers" else second))))


@pytest.mark.parametrize("action", ACTIONS)
def test_scores_of_a_frozen_policy_leave_it_without_a_graph(action):
    policy = policy_of(action)
    policy.requires_grad_(False)
    obs, state, resets = torch.ones(2, 4), policy.initial_state(2), torch.zeros(1, 2).bool()
    actions, *_ = policy.step(obs, state, resets[0])
    _, scores = policy.action_scores(obs, actions, state, resets)
    assert scores.shape == (2, policy.action_net.out_features)
    deepcopy(policy)


def test_patched_classes_act_by_their_own_step(monkeypatch):
    policy = policy_of()
    monkeypatch.setattr(MlpNtmPolicy, "_values", lambda self, latent: latent[:, 0])
    assert not isinstance(make_actor(policy), FusedActor)


def test_policies_act_by_their_own_step_under_autocast():
    with torch.autocast("cpu", torch.bfloat16):
        assert not isinstance(make_actor(policy_of()), FusedActor)
