"""The memory of a core over the steps of an episode."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ntm_rl.cores.base import MemoryCore
from ntm_rl.errors import InputError

FloatArray = NDArray[np.float32]
MAX_NUMBERS = 2**27  # of all recorded tensors, which take 4 bytes each


@dataclass(frozen=True)
class HeadTrace:
    """A head over T steps.

    Attributes:
        weighting: `[T, N]`.
        parameters: `[T]` or `[T, P]` by name.
        vectors: The read vectors of a read head, the vectors that a write head adds, `[T, M]`; None without slots.
        writes: Whether it is a write head.
    """

    weighting: FloatArray
    parameters: Mapping[str, FloatArray]
    vectors: FloatArray | None
    writes: bool


@dataclass(frozen=True)
class MemoryTrace:
    """The memory of a core over T steps; everything is as after the step.

    Attributes:
        heads: By name.
        memory: `[T, N, M]`; None for a core whose memory has no slots.
        kept: Share of the contents that each step did not erase, `[T, N, M]`; None if the core does not report it.
        slots: Further numbers of each slot `[T, N]` by name.
        links: `[T, N, N]`, see `MemoryAccess`; None without.
        activations: `[T, X]` by name.
    """

    heads: Mapping[str, HeadTrace]
    memory: FloatArray | None
    kept: FloatArray | None
    slots: Mapping[str, FloatArray]
    links: FloatArray | None
    activations: Mapping[str, FloatArray]


@dataclass
class MemoryRecorder:
    """Records the memory of a single sequence step by step.

    Args:
        core: The core.
    """

    core: MemoryCore
    _steps: defaultdict[tuple[str, ...], list[FloatArray]] = field(default_factory=lambda: defaultdict(list))
    _writes: dict[str, bool] = field(default_factory=dict)
    _numbers: int = 0

    @torch.no_grad()
    def add(self, before: Tensor, after: Tensor) -> None:
        """Records a step from the flat states `[1, S]` before (zeros at the start) and after it.

        Raises:
            InputError: the recording becomes too large.
        """
        access, memory = self.core.access(before, after), self.core.memory(after)
        for name, head in access.heads.items():
            self._writes[name] = head.writes
            self._keep(head.weighting, "weighting", name)
            vector = head.add
            if vector is None and memory is not None:
                vector = (head.weighting.unsqueeze(1) @ memory).squeeze(1)
            self._keep(vector, "vector", name)
            for key, value in head.parameters.items():
                self._keep(value, "parameter", name, key)
        for key, value in access.slots.items():
            self._keep(value, "slots", key)
        for key, value in self.core.activations(after).items():
            self._keep(value, "activation", key)
        for key, block in (("memory", memory), ("kept", access.kept), ("links", access.links)):
            self._keep(block, key)

    def trace(self) -> MemoryTrace:
        """Returns the recorded steps."""
        stacked = {key: np.stack(steps) for key, steps in self._steps.items()}

        def named(kind: str) -> dict[str, FloatArray]:
            return {key[-1]: value for key, value in stacked.items() if key[0] == kind}

        weightings, vectors = named("weighting"), named("vector")
        heads = {
            name: HeadTrace(
                weightings[name],
                {key[2]: value for key, value in stacked.items() if key[:2] == ("parameter", name)},
                vectors.get(name),
                writes,
            )
            for name, writes in self._writes.items()
        }
        memory, kept, links = (stacked.get((key,)) for key in ("memory", "kept", "links"))
        return MemoryTrace(heads, memory, kept, named("slots"), links, named("activation"))

    def _keep(self, value: Tensor | None, *key: str) -> None:
        if value is None:
            return
        self._numbers += value.numel()
        if self._numbers > MAX_NUMBERS:
            steps = len(self._steps[key])
            raise InputError(f"the memory of {steps} steps is too large to be shown; play fewer with --max-steps")
        self._steps[key].append(value[0].detach().cpu().float().numpy())
