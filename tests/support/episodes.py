"""Episodes without an environment or an agent."""

import numpy as np
import torch
from gymnasium import spaces

from ntm_rl import make_core
from ntm_rl.agents.inspection.episode import DiscreteAction, Episode
from ntm_rl.agents.inspection.memory_trace import MemoryRecorder, MemoryTrace
from ntm_rl.agents.inspection.naming import Part


def memory_of(core: str, steps: int, **options: int) -> MemoryTrace:
    """The memory of a core with random weights and inputs."""
    torch.manual_seed(0)
    made = make_core(core, 3, **options)
    recorder, state = MemoryRecorder(made), made.initial_state(1)
    with torch.no_grad():
        for inputs in 3 * torch.randn(steps, 1, 1, 3):
            _, after = made(inputs, state)
            recorder.add(state, after)
            state = after
    return recorder.trace()


def small_episode(
    steps: int = 12, core: str = "ntm", *, labels: tuple[str, ...] = ("left", "right"), frames: bool = False, **options
) -> Episode:
    """An episode of random numbers, with the memory of a core."""
    rng = np.random.default_rng(0)
    options = options or {"slots": 8, "width": 4, "hidden_size": 5}
    probabilities = rng.dirichlet(np.ones(len(labels)), size=steps).astype(np.float32)
    part = Part("observation", None, spaces.Box(-1, 1, (len(labels),)), labels)
    return Episode(
        [(part, rng.uniform(-1, 1, size=(steps, len(labels))).astype(np.float32))],
        [rng.integers(0, 256, size=(20, 30, 3), dtype=np.uint8) for _ in range(steps)] if frames else [],
        [DiscreteAction("action", labels, probabilities, probabilities.argmax(axis=1))],
        rng.normal(size=steps).astype(np.float32),
        rng.normal(size=steps).astype(np.float32),
        memory_of(core, steps, **options),
        ended=True,
        success=True,
    )
