"""Masked distributions against those of `sb3_contrib.MaskablePPO`, which has two logits for each bit."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_contrib.common.maskable.distributions import make_masked_proba_distribution
from stable_baselines3.common.distributions import kl_divergence

from masked_envs import SPACES, one_hot, random_masks
from ntm_rl.agents.policy import categorical
from ntm_rl.agents.policy.masked_logits import mask_logits
from ntm_rl.agents.policy.policies import MlpNtmPolicy
from ntm_rl.envs.wrappers.action_masks import MaskFormat

BATCH = 64
OBSERVATIONS = spaces.Box(-9, 9, (3,), np.float32)


def make_policy(kind: str, **kwargs) -> MlpNtmPolicy:
    torch.manual_seed(0)
    policy = MlpNtmPolicy(
        OBSERVATIONS,
        SPACES[kind],
        lambda _: 1e-3,
        core="lstm",
        core_kwargs=dict(hidden_size=6),
        net_arch=[6],
        ortho_init=False,
        **kwargs,
    )
    with torch.no_grad():
        policy.action_net.weight.mul_(30)
    return policy


def theirs(kind: str, logits: torch.Tensor, masks: np.ndarray):
    """sb3-contrib's distribution; each bit's logit becomes two, 0 and the logit."""
    if kind == "multi_binary":
        logits = torch.stack([torch.zeros_like(logits), logits], dim=-1).flatten(1)
    distribution = make_masked_proba_distribution(SPACES[kind]).proba_distribution(logits)
    distribution.apply_masking(masks)
    return distribution


def inputs(kind: str, seed: int = 0):
    """Observations, masks, and allowed actions as sampled, counted from 0."""
    rng = np.random.default_rng(seed)
    masks = random_masks(SPACES[kind], BATCH, rng)
    actions = MaskFormat(SPACES[kind]).sample(masks, rng) - getattr(SPACES[kind], "start", 0)
    observations = torch.from_numpy(rng.normal(size=(BATCH, 3)).astype(np.float32))
    return observations, torch.from_numpy(masks), torch.from_numpy(actions)


def logits_of(policy: MlpNtmPolicy, observations: torch.Tensor) -> torch.Tensor:
    latent, _ = policy._latents(observations, policy.initial_state(BATCH), torch.ones(1, BATCH, dtype=torch.bool))
    return policy.action_net(latent)


@pytest.mark.parametrize("kind", SPACES)
def test_log_probabilities_entropies_and_modes_are_sb3_contribs(kind):
    policy, (observations, masks, actions) = make_policy(kind), inputs(kind)
    state, resets = policy.initial_state(BATCH), torch.ones(1, BATCH, dtype=torch.bool)
    actions = actions.float() if kind == "multi_binary" else actions
    _, log_probs, entropy = policy.evaluate_sequences(observations, actions, state, resets, masks)
    expected = theirs(kind, logits_of(policy, observations), masks.numpy())
    torch.testing.assert_close(log_probs, expected.log_prob(actions), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(entropy, expected.entropy(), atol=1e-6, rtol=1e-6)
    modes, _, log_prob, _ = policy.step(observations, state, resets[0], True, masks)
    np.testing.assert_array_equal(modes.long(), expected.mode())
    torch.testing.assert_close(log_prob, expected.log_prob(expected.mode().to(actions.dtype)), atol=1e-6, rtol=1e-6)
    distribution, _ = policy.action_distribution(observations, state, resets[0], masks)
    torch.testing.assert_close(distribution.log_prob(actions), log_probs)


@pytest.mark.parametrize("kind", SPACES)
def test_kl_divergences_are_sb3_contribs(kind):
    policy, (observations, masks, _) = make_policy(kind), inputs(kind)
    state, resets = policy.initial_state(BATCH), torch.ones(BATCH, dtype=torch.bool)
    ours, expected = [], []
    for scale in (1.0, 0.3):
        with torch.no_grad():
            policy.action_net.weight.mul_(scale)
        ours.append(policy.action_distribution(observations, state, resets, masks)[0].distribution)
        expected.append(theirs(kind, logits_of(policy, observations), masks.numpy()))
    if kind == "multi_discrete":
        pairs = zip(*ours, strict=True)
        divergence = torch.stack([torch.distributions.kl_divergence(*pair) for pair in pairs], dim=1).sum(1)
    else:
        divergence = torch.distributions.kl_divergence(*ours).reshape(BATCH, -1).sum(1)
    singles = [each.distributions if kind != "discrete" else [each.distribution] for each in expected]
    reference = sum(_kl(*pair) for pair in zip(*singles, strict=True))
    torch.testing.assert_close(divergence, reference, atol=1e-6, rtol=1e-6)
    assert reference.max() > 0.1


def _kl(p, q) -> torch.Tensor:
    """Of two `MaskableCategorical`s, by definition over the allowed values."""
    return torch.where(p.masks, p.probs * (p.logits - q.logits), 0.0).sum(1)


@pytest.mark.parametrize("kind", SPACES)
def test_samples_follow_the_masked_distribution(kind):
    policy, (observations, masks, _) = make_policy(kind), inputs(kind)
    count = 4000
    observations, masks = observations[:1].expand(count, -1), masks[:1].expand(count, -1)
    actions, *_ = policy.step(
        observations, policy.initial_state(count), torch.ones(count, dtype=torch.bool), action_masks=masks
    )
    space = SPACES[kind]
    frequencies = one_hot(space, actions.numpy() + getattr(space, "start", 0)).mean(axis=0)
    assert not frequencies[~masks[0].numpy()].any()
    logits = logits_of(policy, observations[:BATCH])[:1]
    reference = theirs(kind, logits, masks[:1].numpy())
    parts = [reference.distribution] if kind == "discrete" else reference.distributions
    probabilities = torch.cat([part.probs for part in parts], dim=1)[0]
    np.testing.assert_allclose(frequencies, probabilities.detach(), atol=0.04)


@pytest.mark.parametrize("kind", SPACES)
def test_masked_logits_get_no_gradient_and_the_others_that_of_sb3_contrib(kind):
    _, masks, actions = inputs(kind)
    width = len(SPACES[kind].shape) and SPACES[kind].shape[0] if kind == "multi_binary" else masks.shape[1]
    ours = torch.randn(BATCH, width, requires_grad=True)
    reference = ours.detach().clone().requires_grad_()
    policy = make_policy(kind)
    if kind == "discrete":
        log_probs, entropy = categorical.evaluate(mask_logits(ours, masks, SPACES[kind]), actions)
    else:
        distribution = policy.action_dist.proba_distribution(mask_logits(ours, masks, SPACES[kind]))
        log_probs = distribution.log_prob(actions.float() if kind == "multi_binary" else actions)
        entropy = distribution.entropy()
    (log_probs + 0.3 * entropy).sum().backward()
    expected = theirs(kind, reference, masks.numpy())
    (expected.log_prob(actions) + 0.3 * expected.entropy()).sum().backward()
    torch.testing.assert_close(ours.grad, reference.grad, atol=1e-6, rtol=1e-5)
    is_masked = ~masks if kind != "multi_binary" else ~masks.unflatten(1, (-1, 2)).all(2)
    assert is_masked.any() and not ours.grad[is_masked].any() and ours.grad[~is_masked].any()


def test_a_hand_computed_mask():
    """Logits 0, ln 2, ln 4 with the last value excluded: probabilities 1/3 and 2/3."""
    logits = torch.tensor([[1.0, 2.0, 4.0]]).log()
    masked = mask_logits(logits, torch.tensor([[True, True, False]]), spaces.Discrete(3))
    log_prob, entropy = categorical.evaluate(masked, torch.tensor([1]))
    assert log_prob.item() == pytest.approx(np.log(2 / 3))
    assert entropy.item() == pytest.approx(-np.log(1 / 3) / 3 - 2 * np.log(2 / 3) / 3)


def test_a_forced_bit_has_probability_1_whatever_its_logit():
    masks = torch.tensor([[True, False, False, True, True, True]])
    masked = mask_logits(torch.tensor([[50.0, -50.0, 0.3]]), masks, spaces.MultiBinary(3))
    torch.testing.assert_close(torch.sigmoid(masked), torch.tensor([[0, 1, torch.sigmoid(torch.tensor(0.3))]]))


@pytest.mark.parametrize("logit", [-3e38, -1e9, 1e9, 3e38])
def test_divergent_logits_choose_no_excluded_action(logit):
    masks = torch.tensor([[True, False, True, False]])
    masked = mask_logits(torch.tensor([[logit, 0.0, logit, 3e38]]), masks, spaces.Discrete(4))
    actions, log_probs = categorical.sample(masked.expand(200, -1), deterministic=False)
    assert set(actions.tolist()) == {0, 2}
    torch.testing.assert_close(log_probs, torch.full((200,), 0.5).log())
    assert categorical.sample(masked, deterministic=True)[0].item() in (0, 2)


def test_one_allowed_action_is_taken():
    policy = make_policy("discrete")
    masks = torch.zeros(BATCH, 5, dtype=torch.bool)
    chosen = torch.arange(BATCH) % 5
    masks[torch.arange(BATCH), chosen] = True
    observations, *_ = inputs("discrete")
    state, resets = policy.initial_state(BATCH), torch.ones(BATCH, dtype=torch.bool)
    actions, _, log_probs, _ = policy.step(observations, state, resets, action_masks=masks)
    assert torch.equal(actions, chosen) and not log_probs.any()
    predicted, _ = policy.predict(observations.numpy(), action_masks=masks.numpy(), deterministic=True)
    np.testing.assert_array_equal(predicted, chosen + 2)  # the space's start


def test_divergence_of_sb3_is_finite():
    policy, (observations, masks, _) = make_policy("discrete"), inputs("discrete")
    state, resets = policy.initial_state(BATCH), torch.ones(BATCH, dtype=torch.bool)
    distribution, _ = policy.action_distribution(observations, state, resets, masks)
    assert not kl_divergence(distribution, distribution).any()
