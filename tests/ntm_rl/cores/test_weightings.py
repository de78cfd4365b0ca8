"""The weightings and the memory that a core shows, against its read vectors and the parts of its state."""

import numpy as np
import pytest
import torch

from ntm_rl.cores.base import MemoryCore
from ntm_rl.cores.registry import core_names, make_core

HEADS = {
    "ntm": ({"read_heads": 2, "write_heads": 3}, ["read 1", "read 2", "write 1", "write 2", "write 3"]),
    "ntm_block": ({"read_heads": 3}, ["read 1", "read 2", "read 3", "write 1"]),
    "dnc": ({"read_heads": 2}, ["read 1", "read 2", "write 1"]),
    "sam": ({"heads": 2, "slots_read": 3}, ["read 1", "read 2"]),
    "mann": ({"heads": 2}, ["read 1", "read 2"]),
}
every_core_with_heads = pytest.mark.parametrize("name", HEADS)


def run(name: str) -> tuple[MemoryCore, torch.Tensor]:
    """A core of 7 slots of width 4, and the states of 3 sequences after 6 steps."""
    torch.manual_seed(0)
    core = make_core(name, 3, slots=7, width=4, hidden_size=5, **HEADS[name][0]).double()
    with torch.no_grad():
        _, state = core(torch.randn(6, 3, 3, dtype=torch.float64), core.initial_state(3))
    return core, state


@every_core_with_heads
def test_heads_have_names_and_weightings_on_the_simplex(name):
    core, state = run(name)
    weightings = core.weightings(state)
    assert list(weightings) == HEADS[name][1] and core.has_weightings()
    for head, weighting in weightings.items():
        assert weighting.shape == (3, 7) and (weighting >= 0).all()
        total = weighting.sum(dim=1)
        if name == "dnc":
            assert (total <= 1 + 1e-6).all() and (total > 0).all()
        else:
            torch.testing.assert_close(total, torch.ones_like(total), msg=head)


@every_core_with_heads
@torch.no_grad()
def test_the_memory_under_a_read_heads_weighting_is_its_read_vector(name):
    core, state = run(name)
    memory, reads = core.memory(state).numpy(), core.unpack(state).reads.numpy()
    for number in range(reads.shape[1]):
        weighting = core.weightings(state)[f"read {number + 1}"].numpy()
        for sequence in range(3):
            expected = sum(weight * slot for weight, slot in zip(weighting[sequence], memory[sequence], strict=True))
            np.testing.assert_allclose(reads[sequence, number], expected, atol=1e-6)


def test_weightings_are_the_parts_of_the_state():
    core, state = run("ntm")
    torch.testing.assert_close(torch.stack([*core.weightings(state).values()], 1), core.unpack(state).weightings)
    core, state = run("dnc")
    parts, (*reads, write) = core.unpack(state), core.weightings(state).values()
    torch.testing.assert_close(torch.stack(reads, 1), parts.read_weightings)
    torch.testing.assert_close(write, parts.write_weighting)
    core, state = run("mann")
    torch.testing.assert_close(torch.stack([*core.weightings(state).values()], 1), core.unpack(state).read_weightings)


def test_a_sparse_weighting_is_zero_at_the_slots_that_its_head_leaves_out():
    core, state = run("sam")
    parts = core.unpack(state)
    for head, weighting in enumerate(core.weightings(state).values()):
        for sequence in range(3):
            expected = dict.fromkeys(range(7), 0.0)
            for slot, weight in zip(parts.slots_read[sequence, head], parts.read_weights[sequence, head], strict=True):
                expected[int(slot)] += float(weight)
            assert weighting[sequence].tolist() == list(expected.values())


@every_core_with_heads
def test_weightings_are_differentiable(name):
    core, _ = run(name)
    _, state = core(torch.randn(6, 3, 3, dtype=torch.float64), core.initial_state(3))
    sum((weighting**2).sum() for weighting in core.weightings(state).values()).backward()
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in core.parameters())


@pytest.mark.parametrize("name", sorted(set(core_names()) - set(HEADS)))
def test_cores_without_heads_have_no_weightings_and_no_slots(name):
    core = make_core(name, 3, hidden_size=6)
    state = core.initial_state(2)
    assert core.weightings(state) == {} and core.memory(state) is None and not core.has_weightings()
