"""A memory core with an output layer, for supervised sequences."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ntm_rl.addressing.ntm import entropy
from ntm_rl.agents.policy.core_check import make_checked_core


class SequenceNetwork(nn.Module):
    """A memory core and the linear output layer of the NTM paper.

    Args:
        core: Name of a registered core.
        input_size: I.
        output_size: O.
        **core_kwargs: The core's options.

    Raises:
        InputError: unknown core or option.
    """

    def __init__(self, core: str, input_size: int, output_size: int, /, **core_kwargs: Any):
        super().__init__()
        self.core_name, self.core_kwargs = core, core_kwargs
        self.core = make_checked_core(core, input_size, **core_kwargs)
        self.output = nn.Linear(self.core.output_size, output_size)

    def forward(self, inputs: Tensor) -> Tensor:
        """Returns the logits `[T, B, O]` of answers to inputs `[T, B, I]`."""
        logits: Tensor = self.output(self.core.outputs(inputs, self.core.initial_state(inputs.shape[1])))
        return logits

    def with_entropy(self, inputs: Tensor, steps: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Runs a network whose core has weightings, and measures their entropy after some steps and after the last.

        Args:
            inputs: `[T, B, I]`.
            steps: Numbers of steps, in ascending order, each in (0, T).

        Returns:
            The logits `[T, B, O]`, and the mean entropy of the weightings in bits, a scalar.
        """
        state, outputs, entropies = self.core.initial_state(inputs.shape[1]), [], []
        for part in inputs.tensor_split(list(steps)):
            output, state = self.core(part, state)
            outputs.append(output)
            weightings = torch.stack([*self.core.weightings(state).values()], dim=1)  # [B, K, N]
            entropies.append(entropy(weightings).mean())
        return self.output(torch.cat(outputs)), torch.stack(entropies).mean()
