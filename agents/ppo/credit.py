"""The lambda of generalised advantage estimation, measured during the training."""

from collections.abc import Iterable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from ntm_rl.agents.parallel.ranks import SINGLE, Ranks
from ntm_rl.agents.policy.policies import MlpNtmPolicy
from ntm_rl.agents.ppo.rollout import Rollout

# Lags in steps at which groups of later temporal-difference errors begin: 0, 1, 2-3, 4-7 and so on; the last ends them.
BOUNDS = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)
GROUPS = len(BOUNDS) - 1
LAMBDAS = (0.0, 0.2, 0.4, 0.6, 0.7, 0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.98, 0.99, 1.0)
FIRST_LAMBDA = 0.5  # a large one would add the noise of late rewards to early ones
CRITIC_LAMBDA = 0.95  # of the returns: the critic has to foresee late rewards in any case
DECAY = 0.95  # of the statistics, per rollout
RATE = 0.1  # fraction of the way to the best lambda in one rollout
LEAST_ROLLOUTS = 4  # for an estimate of the variance over rollouts
TINY = 1e-30


class CreditHorizon(nn.Module):
    """Chooses the lambda of generalised advantage estimation by the policy gradients that it gives.

    The gradient of the policy's last layer is split by the lag between an action and the temporal-difference errors
    in its advantage. The inner product of the gradients of two halves of the environments (for one environment, of its
    steps) is an unbiased estimate of a lag's signal; the squared norm of the gradient contains the noise too. The best
    lambda maximises the expected cosine between its gradient and that of lambda = 1, which is unbiased.

    Args:
        start: Lambda until a signal is found.

    Attributes:
        value: Lambda, a scalar.
    """

    value: Tensor
    signal: Tensor
    square: Tensor
    length: Tensor
    weight: Tensor
    square_weight: Tensor

    def __init__(self, start: float = FIRST_LAMBDA):
        super().__init__()
        self.register_buffer("value", torch.tensor(float(start)))
        self.register_buffer("signal", torch.zeros(GROUPS, GROUPS))  # inner products between the lags' gradients
        self.register_buffer("square", torch.zeros(GROUPS, GROUPS))  # their squares, per rollout
        self.register_buffer("length", torch.zeros(GROUPS, GROUPS))  # inner products with the noise
        self.register_buffer("weight", torch.zeros(()))  # sum of the rollouts' weights, and of their squares
        self.register_buffer("square_weight", torch.zeros(()))

    def set_advantages(self, policy: MlpNtmPolicy, rollout: Rollout, last_values: Tensor, gamma: float) -> None:
        """Measures a rollout and sets its advantages to those of the new lambda; its returns stay the same.

        Args:
            policy: The policy that collected it.
            rollout: A complete rollout.
            last_values: Values `[E]` of the observations after the last step.
            gamma: Discount factor.
        """
        scored = [policy.action_scores(*rollout.sequence(number)) for number in range(len(rollout.states))]
        features, scores = (torch.cat(each).unflatten(0, (rollout.n_steps, -1)) for each in zip(*scored, strict=True))
        errors = rollout.errors(last_values, gamma)
        ends = torch.from_numpy(rollout.ends).to(rollout.device)
        on_device = torch.from_numpy(errors).to(rollout.device)
        value = self.update(features, scores, on_device, ends, gamma, rollout.ranks)
        rollout.advantages.copy_(rollout.decayed_sums(errors, gamma * value))

    @torch.no_grad()
    def update(
        self, features: Tensor, scores: Tensor, errors: Tensor, ends: Tensor, gamma: float, ranks: Ranks = SINGLE
    ) -> float:
        """Adds a rollout and returns the new lambda.

        Args:
            features: Inputs of the policy's last layer, `[T, E, F]`.
            scores: Gradients of the actions' log probabilities for its outputs, `[T, E, A]`.
            errors: Temporal-difference errors, `[T, E]`.
            ends: Whether a step ends an episode, `[T, E]` bool.
            gamma: Discount.
            ranks: The ranks, each with E environments.
        """
        later = errors_by_lag(errors, ends, gamma)
        later = later - ranks.total(later.mean((0, 1))) / ranks.size
        steps, envs = errors.shape
        if steps * envs * ranks.size < 2:
            return self.value.item()
        first, second = _gradients_of_halves(features, scores, later, ranks)
        signal, whole = first @ second.T, (first + second) / 2
        signal = (signal + signal.T) / 2
        self.weight.mul_(DECAY).add_(1 - DECAY)
        self.square_weight.mul_(DECAY**2).add_((1 - DECAY) ** 2)
        for kept, found in ((self.signal, signal), (self.square, signal.square()), (self.length, whole @ whole.T)):
            kept.lerp_(found, 1 - DECAY)
        best = self._best()
        if best is not None:
            self.value.lerp_(torch.full_like(self.value, best), RATE)
        return self.value.item()

    def _best(self) -> float | None:
        """Returns the lambda with the largest cosine; None if no signal differs from noise."""
        mean, square = self.signal / self.weight, self.square / self.weight
        rollouts = self.weight.square() / self.square_weight  # effective number
        if rollouts < LEAST_ROLLOUTS:
            return None
        variance = (square - mean.square()).clamp(min=0) / (rollouts - 1)
        signal = mean * (1 - 2 * variance / (mean.square() + TINY)).clamp(min=0)  # 0 within 1.4 standard deviations
        weights = lag_weights(LAMBDAS).to(signal.device)
        lengths = ((weights @ self.length) * weights).sum(1).clamp(min=TINY).sqrt()
        cosines = (weights @ signal).sum(1) / lengths
        best = int(cosines.argmax())
        return LAMBDAS[best] if cosines[best] > 0 else None


def critic_lambda(gae_lambda: float | str) -> float:
    """Returns the lambda of the returns, from which the critic learns."""
    return CRITIC_LAMBDA if isinstance(gae_lambda, str) else gae_lambda


def compute_advantages(
    policy: MlpNtmPolicy,
    rollout: Rollout,
    last_values: Tensor,
    gamma: float,
    gae_lambda: float | str,
    credit: CreditHorizon | None,
) -> None:
    """Computes a rollout's advantages and returns; see `Rollout.compute_advantages` and `CreditHorizon`."""
    rollout.compute_advantages(last_values, gamma, critic_lambda(gae_lambda))
    if credit is not None:
        credit.set_advantages(policy, rollout, last_values, gamma)


def lag_weights(lambdas: Sequence[float]) -> Tensor:
    """Returns the mean of lambda ** lag over the lags of each group, `[len(lambdas), G]`."""
    powers = torch.tensor(lambdas).unsqueeze(1) ** torch.arange(BOUNDS[-1])
    return torch.stack([powers[:, low:high].mean(1) for low, high in pairwise(BOUNDS)], dim=1)


def errors_by_lag(errors: Tensor, ends: Tensor, gamma: float) -> Tensor:
    """Returns for each step the discounted sums of the errors in its episode by their lag, `[T, E, G]`.

    Args:
        errors: Temporal-difference errors, `[T, E]`.
        ends: Whether a step ends an episode, `[T, E]` bool.
        gamma: Discount.
    """
    steps, total = len(errors), torch.zeros_like(errors[0])
    to_end = torch.zeros_like(torch.cat([errors, errors[:1]]))  # discounted sums up to the episode's end
    for step in reversed(range(steps)):
        total = errors[step] + gamma * total * ~ends[step]
        to_end[step] = total
    time = torch.arange(steps, device=errors.device).unsqueeze(1)
    over = torch.where(ends, time + 1, steps).flip(0).cummin(0).values.flip(0)  # the next episode's first step
    from_lag = []
    for bound in BOUNDS:
        reached = (time + bound).expand_as(errors)
        sums = gamma**bound * to_end.gather(0, reached.clamp(max=steps))
        from_lag.append(sums.masked_fill(reached >= over, 0))
    return torch.stack([near - far for near, far in pairwise(from_lag)], dim=2)


def _gradients_of_halves(features: Tensor, scores: Tensor, later: Tensor, ranks: Ranks) -> Iterable[Tensor]:
    """Returns the gradients of two halves of all ranks' environments; for one environment, of its steps."""
    steps, envs = later.shape[:2]
    axis = 1 if envs * ranks.size > 1 else 0
    count = envs * ranks.size if axis else steps
    middle = (count + 1) // 2  # of all ranks
    split = min(max(middle - ranks.rank * envs * axis, 0), envs if axis else steps)  # of this one
    halves = zip(*(each.tensor_split([split], dim=axis) for each in (features, scores, later)), strict=True)
    sums = ranks.total(torch.stack([_gradients(*half) for half in halves]))
    other = steps if axis else 1
    return sums[0] / (middle * other), sums[1] / ((count - middle) * other)


def _gradients(features: Tensor, scores: Tensor, later: Tensor) -> Tensor:
    """Returns the gradient of the last layer, bias included, summed for each group of lags, `[G, (F + 1) * A]`."""
    features = torch.cat([features, torch.ones_like(features[..., :1])], dim=2).flatten(0, 1)
    weighted = (scores.unsqueeze(2) * later.unsqueeze(3)).flatten(0, 1)  # [T * E, G, A]
    gradients: Tensor = features.T @ weighted.flatten(1)  # [F + 1, G * A]
    gradients = gradients.unflatten(1, weighted.shape[1:])
    return gradients.movedim(1, 0).flatten(1)
