"""The sampler and the pruners of a sweep."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner, HyperbandPruner, NopPruner, WilcoxonPruner
from optuna.samplers import BaseSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from ntm_rl.agents.sweeps.plan import PrunerName

RUNGS = 9  # equal parts of a training after which Hyperband compares learning curves; three brackets


class SeededTpe(BaseSampler):
    """TPE whose random numbers depend on a seed and the number of the trial only.

    A sweep that is continued, or that several processes share, so draws no values twice, and the values of a trial
    that lost its process while they were drawn stay the same.

    Args:
        seed: The seed.
        is_conditional: Whether some parameters exist only for some values of others.
    """

    def __init__(self, seed: int, *, is_conditional: bool):
        self._seed, self._is_conditional = seed, is_conditional
        self._sampler = self._make(0)

    def _make(self, number: int) -> TPESampler:
        seed = int(np.random.SeedSequence([self._seed, number]).generate_state(1)[0])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            return TPESampler(seed=seed, multivariate=True, group=self._is_conditional, constant_liar=True)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """See `BaseSampler`."""
        self._sampler = self._make(trial.number)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """See `BaseSampler`."""
        return self._sampler.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """See `BaseSampler`."""
        return self._sampler.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """See `BaseSampler`."""
        return self._sampler.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """See `BaseSampler`."""
        self._sampler.after_trial(study, trial, state, values)


def make_pruner(name: PrunerName) -> BasePruner:
    """Returns a pruner."""
    if name == "hyperband":
        return HyperbandPruner(min_resource=1, max_resource=RUNGS, reduction_factor=3)
    if name == "wilcoxon":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            return WilcoxonPruner()
    return NopPruner()
