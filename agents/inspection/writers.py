"""Finds the step that wrote what a head reads."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ntm_rl.agents.inspection.memory_trace import FloatArray, HeadTrace, MemoryTrace

SLOTS_READ = 4  # slots with the largest weights, whose contents are traced back to writes
LEAST_KEPT = 1e-30  # lower bound of a kept share, which has a logarithm
NO_STEP = -1


class Writers(NamedTuple):
    """For each step of a read head, the write that contributed most to its read vector.

    The contents of a slot are a sum: each write adds its weighting times its vector, of which later steps keep a share.

    Attributes:
        steps: Step of that write, `[T]`; `NO_STEP` where the initial contents contribute more than any write.
        slots: Slot with the largest weight, `[T]`.
        shares: Norm of its contribution as a share of the sum of all contributions' norms, `[T]`.
    """

    steps: NDArray[np.int64]
    slots: NDArray[np.int64]
    shares: FloatArray


def find_writers(trace: MemoryTrace) -> dict[str, Writers]:
    """Returns the writers of each read head by name; empty for a core that does not report its writes."""
    writes = [head for head in trace.heads.values() if head.writes]
    if trace.memory is None or trace.kept is None or not writes:
        return {}
    written = sum(_written(head, slice(0, 1)) for head in writes)[0]  # type: ignore[index]
    initial = (trace.memory[0] - written).astype(np.float64)  # what the first step kept
    logs = np.log(np.maximum(trace.kept, LEAST_KEPT), dtype=np.float64).cumsum(axis=0)
    return {name: _writers_of(head, writes, logs, initial) for name, head in trace.heads.items() if not head.writes}


def _written(head: HeadTrace, steps: slice, slots: NDArray[np.int64] | slice = slice(None)) -> FloatArray:
    """Returns what a write head added to slots, `[T, N, M]`."""
    assert head.vectors is not None
    added: FloatArray = head.weighting[steps][:, slots, None] * head.vectors[steps, None]
    return added


def _writers_of(
    head: HeadTrace, writes: list[HeadTrace], logs: NDArray[np.float64], initial: NDArray[np.float64]
) -> Writers:
    found = []
    for step, weighting in enumerate(head.weighting):
        slots = np.argsort(-weighting, kind="stable")[:SLOTS_READ]
        past = slice(0, step + 1)
        left = weighting[slots, None] * np.exp(logs[step, slots] - logs[past, slots])  # [t, s, M]
        norms = sum(np.linalg.norm((left * _written(each, past, slots)).sum(1), axis=1) for each in writes)
        before = np.linalg.norm((left[0] * initial[slots]).sum(0))
        total = np.sum(norms) + before
        writer = step - int(np.argmax(norms[::-1]))  # the last of equals
        share = float(norms[writer] / total) if total > 0 else 0.0
        is_written = share > 0 and norms[writer] >= before
        found.append((writer if is_written else NO_STEP, slots[0], share if is_written else 0.0))
    steps, slots_read, shares = map(np.array, zip(*found, strict=True))
    return Writers(steps.astype(np.int64), slots_read.astype(np.int64), shares.astype(np.float32))
