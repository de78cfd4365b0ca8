"""Time and memory of the sparse access memory (SAM) and of the NTM as the number of slots grows.

Each measurement has its own process with one torch thread. Times are CPU times, as in `growth`.
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from ntm_rl.agents.speed.timing import alternate, peak_memory, training_step
from ntm_rl.cores.registry import make_core

INPUTS, HIDDEN, WIDTH, STEPS, BATCH = 64, 128, 16, 32, 4
SLOTS = (64, 1024, 16_384, 65_536)


@dataclass(frozen=True)
class SlotsCost:
    """Cost of a forward and backward pass at a number of slots.

    Attributes:
        slots: Number of slots N.
        ours: Milliseconds of SAM, median over the repeats.
        peer: Milliseconds of the NTM.
        ours_peak: Increase of the peak memory with SAM, in MiB.
        peer_peak: The same with the NTM.
    """

    slots: int
    ours: float
    peer: float
    ours_peak: float
    peer_peak: float


def sparse_growth(repeats: int = 5) -> Iterator[SlotsCost]:
    """Yields the costs as they are measured."""
    for slots in SLOTS:
        (ours, ours_peak), (peer, peer_peak) = (_measure_in_process(core, slots, repeats) for core in ("sam", "ntm"))
        yield SlotsCost(slots, ours, peer, ours_peak, peer_peak)


def measure(core: str, slots: int, repeats: int) -> tuple[float, float]:
    """Measures milliseconds and MiB of a core in this process."""
    torch.set_num_threads(1)
    network = make_core(core, INPUTS, slots=slots, width=WIDTH, hidden_size=HIDDEN)
    step = training_step(network, torch.randn(STEPS, BATCH, INPUTS))
    before = peak_memory()
    seconds = alternate(repeats, step, clock=time.process_time)[0]
    return 1e3 * seconds, peak_memory() - before


def _measure_in_process(core: str, slots: int, repeats: int) -> tuple[float, float]:
    code = (
        "import json; from ntm_rl.agents.speed.sam_growth import measure; "
        f"print(json.dumps(measure({core!r}, {slots}, {repeats})))"
    )
    run = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    milliseconds, peak = json.loads(run.stdout)
    return milliseconds, peak
