"""The steps that wrote what heads read, compared with memories of known history."""

import numpy as np
import pytest

from episodes import memory_of
from ntm_rl.agents.inspection.memory_trace import HeadTrace, MemoryTrace
from ntm_rl.agents.inspection.writers import NO_STEP, find_writers


def traced(writes, reads, vectors, erase, initial):
    """A memory that is written and read by one head each, from weightings `[T, N]` and erase shares `[T]`."""
    memories, kept = [], []
    memory = np.array(initial, dtype=np.float32)
    for weighting, vector, share in zip(writes, vectors, erase, strict=True):
        kept.append(np.repeat(1 - share * weighting[:, None], memory.shape[1], axis=1))
        memory = memory * kept[-1] + weighting[:, None] * vector
        memories.append(memory)
    read_vectors = np.einsum("tn,tnm->tm", reads, memories)
    heads = {
        "read 1": HeadTrace(reads, {}, read_vectors, writes=False),
        "write 1": HeadTrace(writes, {}, vectors, writes=True),
    }
    return MemoryTrace(heads, np.stack(memories), np.stack(kept).astype(np.float32), {}, None, {})


def test_each_read_is_traced_back_to_the_write_of_its_slot():
    slots = np.eye(3, dtype=np.float32)
    writes, reads = slots[[0, 1, 2, 0]], slots[[0, 0, 1, 0]]
    vectors = np.array([[1, 0], [0, 2], [3, 0], [0, 4]], dtype=np.float32)
    trace = traced(writes, reads, vectors, erase=[1, 1, 1, 1], initial=np.zeros((3, 2)))
    steps, rows, shares = find_writers(trace, np.arange(3))["read 1"]
    assert steps.tolist() == [0, 0, 1, 3] and rows.tolist() == [0, 0, 1, 0]
    np.testing.assert_allclose(shares, 1)


def test_what_is_partly_erased_shares_the_slot_with_what_is_written_later():
    writes = np.ones((2, 1), dtype=np.float32)
    vectors = np.array([[3.0], [1.0]], dtype=np.float32)
    for erase, step, share in [(0.5, 0, 1.5 / 2.5), (0.9, 1, 1 / 1.3)]:
        trace = traced(writes, writes, vectors, [1, erase], np.zeros((1, 1)))
        found = find_writers(trace, np.arange(1))["read 1"]
        assert found.steps[1] == step and found.shares[1] == pytest.approx(share)


def test_contents_from_before_the_episode_have_no_step():
    writes, reads = np.array([[1, 0]], dtype=np.float32), np.array([[0, 1]], dtype=np.float32)
    trace = traced(writes, reads, np.ones((1, 2), np.float32), [1], initial=[[1, 1], [5, 5]])
    found = find_writers(trace, np.arange(2))["read 1"]
    assert (found.steps[0], found.rows[0], found.shares[0]) == (NO_STEP, 1, 1)


@pytest.mark.parametrize("core", ["ntm", "dnc", "sam", "mann"])
def test_the_contributions_of_a_core_add_up_to_its_read_vectors(core):
    trace = memory_of(core, 9, slots=7, width=3, hidden_size=5)
    added = sum(head.weighting[:, :, None] * head.vectors[:, None] for head in trace.heads.values() if head.writes)
    left = [trace.memory[0] - added[0], added[0]]
    for step in range(1, 9):
        left = [each * trace.kept[step] for each in left] + [added[step]]
    np.testing.assert_allclose(sum(left), trace.memory[-1], atol=1e-5)
    read = trace.heads["read 1"]
    norms = [np.linalg.norm(read.weighting[-1] @ each) for each in left]
    found = find_writers(trace, np.arange(7))["read 1"]
    assert found.steps[-1] == int(np.argmax(norms)) - 1
    assert found.shares[-1] == pytest.approx(max(norms) / sum(norms), rel=1e-3)


def test_a_core_without_write_heads_has_no_writers():
    assert find_writers(memory_of("lstm", 3, hidden_size=4), np.arange(0)) == {}
