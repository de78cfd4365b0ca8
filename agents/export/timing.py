"""Times a step of an exported file and of the same step in PyTorch."""

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch

from ntm_rl.agents.export.programs import onnx_runner, random_inputs
from ntm_rl.agents.export.steps import StepModule

BLOCKS, STEPS = 7, 100  # the median over blocks of steps, in which the implementations alternate


def time_steps(step: StepModule, path: Path) -> dict[str, float]:
    """Returns the microseconds of a step of one environment on one thread, by the name of the implementation."""
    inputs = list(random_inputs(step, 1, np.random.default_rng(0)).values())
    tensors = list(map(torch.from_numpy, inputs))
    runs: dict[str, Callable[[], object]] = {"PyTorch": lambda: step(*tensors)}
    if path.suffix == ".onnx":
        session = onnx_runner(step, path.read_bytes(), threads=1)
        runs["ONNX Runtime"] = lambda: session(inputs)
    else:
        program = torch.export.load(path).module()
        runs["torch.export"] = lambda: program(*tensors)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.no_grad():
            blocks = [[_time(run) for run in runs.values()] for _ in range(BLOCKS + 1)]
    finally:
        torch.set_num_threads(threads)
    medians = map(median, zip(*blocks[1:], strict=True))  # the first block is a warm-up
    return dict(zip(runs, medians, strict=True))


def _time(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    for _ in range(STEPS):
        run()
    return 1e6 * (time.perf_counter() - start) / STEPS
