"""Finds the step that wrote what a head reads."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ntm_rl.agents.inspection.memory_trace import FloatArray, MemoryTrace

NO_STEP = -1


class Writers(NamedTuple):
    """For each step of a read head, the step whose writes contributed most to its read vector.

    The contents of a slot are a sum: each write adds its weighting times its vector, of which later steps keep a share.

    Attributes:
        steps: That step, `[T]`; `NO_STEP` where the initial contents contribute more.
        rows: The slot through which it contributed most, as an index into the given slots, `[T]`.
        shares: Norm of its contribution as a share of the sum of all contributions' norms, `[T]`.
    """

    steps: NDArray[np.int64]
    rows: NDArray[np.int64]
    shares: FloatArray


def find_writers(trace: MemoryTrace, slots: NDArray[np.int64]) -> dict[str, Writers]:
    """Returns the writers of each read head by name; empty for a core that does not report its writes.

    Args:
        trace: The memory over T steps.
        slots: Numbers of the slots whose contents are traced back.
    """
    added, readers = _added(trace, slots), {name: head for name, head in trace.heads.items() if not head.writes}
    if added is None or trace.memory is None or trace.kept is None:
        return {}
    steps, count, width = added.shape
    # What is left of the initial contents (row 0) and of each step's writes.
    left = np.zeros((steps + 1, count, width), dtype=np.float32)
    left[:2] = trace.memory[0, slots] - added[0], added[0]
    found: dict[str, list[tuple[int, int, float]]] = {name: [] for name in readers}
    for step in range(steps):
        if step > 0:
            left[: step + 1] *= trace.kept[step, slots]
            left[step + 1] = added[step]
        for name, head in readers.items():
            found[name].append(_writer(left[: step + 2], head.weighting[step, slots]))
    return {name: _stack(each) for name, each in found.items()}


def _added(trace: MemoryTrace, slots: NDArray[np.int64]) -> FloatArray | None:
    """Returns what the write heads of each step added to the slots, `[T, N, M]`; None without write heads."""
    added = None
    for head in trace.heads.values():
        if head.writes and head.vectors is not None:
            own = head.weighting[:, slots, None] * head.vectors[:, None]
            added = own if added is None else added + own
    return added


def _writer(left: FloatArray, weighting: FloatArray) -> tuple[int, int, float]:
    """Returns the step, row and share of the largest contribution to a read, from `left` `[1 + t, N, M]`."""
    contributions = np.tensordot(left, weighting, axes=(1, 0))
    norms = np.linalg.norm(contributions, axis=1)
    largest = len(norms) - 1 - int(np.argmax(norms[::-1]))  # the last of equals
    row = int(np.argmax(weighting * np.linalg.norm(left[largest], axis=1)))
    total = float(norms.sum())
    return (largest - 1, row, float(norms[largest]) / total) if total > 0 else (NO_STEP, row, 0.0)


def _stack(found: list[tuple[int, int, float]]) -> Writers:
    steps, rows, shares = zip(*found, strict=True)
    return Writers(np.array(steps), np.array(rows), np.array(shares, dtype=np.float32))
