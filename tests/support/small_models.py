"""Small models without a run."""

from typing import Any

from ntm_rl.agents import MemoryPPO

TINY_POLICY = dict(core="lstm", core_kwargs=dict(hidden_size=6), net_arch=[6])


def lstm_model(
    env: Any = "CartPole-v1", algorithm: Any = MemoryPPO, policy: Any = "MlpNtmPolicy", **kwargs: Any
) -> Any:
    """A model with a small LSTM, on the CPU, with seed 0."""
    return algorithm(policy, env, **{"policy_kwargs": TINY_POLICY, "seed": 0, "device": "cpu", **kwargs})
