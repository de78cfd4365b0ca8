"""Times a step of an exported file and of the same step in PyTorch."""

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch

from ntm_rl.agents.export.programs import onnx_runner, random_inputs
from ntm_rl.agents.export.steps import StepModule

BLOCKS, STEPS = 7, 100  # the median over blocks of steps


def time_steps(step: StepModule, path: Path) -> dict[str, float]:
    """Returns the microseconds of a step of one environment on one thread, by the name of the implementation."""
    inputs = list(random_inputs(step, 1, np.random.default_rng(0)).values())
    tensors = list(map(torch.from_numpy, inputs))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.no_grad():
            times = {"PyTorch": _time(lambda: step(*tensors))}
            if path.suffix == ".onnx":
                run = onnx_runner(step, path.read_bytes(), threads=1)
                times["ONNX Runtime"] = _time(lambda: run(inputs))
            else:
                program = torch.export.load(path).module()
                times["torch.export"] = _time(lambda: program(*tensors))
    finally:
        torch.set_num_threads(threads)
    return times


def _time(run: Callable[[], object]) -> float:
    run()
    blocks = []
    for _ in range(BLOCKS):
        start = time.perf_counter()
        for _ in range(STEPS):
            run()
        blocks.append((time.perf_counter() - start) / STEPS)
    return 1e6 * median(blocks)
