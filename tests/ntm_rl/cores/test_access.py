"""What cores report about a step for inspection, compared with the step itself."""

from itertools import pairwise

import pytest
import torch

from ntm_rl import make_core
from ntm_rl.addressing import dnc as dnc_addressing
from ntm_rl.addressing import ntm as addressing
from ntm_rl.cores.registry import core_names

OPTIONS = {
    "ntm": {"read_heads": 2, "write_heads": 2, "slots": 6, "width": 4, "memory_init": "random"},
    "ntm_block": {"read_heads": 2, "slots": 6, "width": 4},
    "dnc": {"read_heads": 2, "slots": 6, "width": 4, "wipe_freed": True},
    "sam": {"heads": 2, "slots": 9, "width": 4, "slots_read": 2},
    "mann": {"heads": 2, "slots": 6, "width": 4},
}


def steps(name, count=6, **options):
    """Core, and the states before and after each step of a random sequence."""
    torch.manual_seed(0)
    core = make_core(name, 5, **{"hidden_size": 7, **OPTIONS.get(name, {}), **options})
    states = [core.initial_state(3)]
    with torch.no_grad():
        for inputs in 3 * torch.randn(count, 1, 3, 5):
            states.append(core(inputs, states[-1])[1])
    return core, list(pairwise(states))


@pytest.mark.parametrize("name", OPTIONS)
def test_kept_contents_and_additions_give_the_memory_after_the_step(name):
    core, pairs = steps(name)
    for before, after in pairs[1:]:  # the state before the first step may stand for learned contents
        access = core.access(before, after)
        writes = [head for head in access.heads.values() if head.writes]
        expected = core.memory(before) * access.kept
        expected += sum(head.weighting.unsqueeze(2) * head.add.unsqueeze(1) for head in writes)
        assert writes and torch.allclose(core.memory(after), expected, atol=1e-6)


@pytest.mark.parametrize("name", OPTIONS)
def test_weightings_are_those_of_the_state(name):
    core, pairs = steps(name)
    for before, after in pairs:
        heads = core.access(before, after).heads
        for head, weighting in core.weightings(after).items():
            assert torch.equal(heads[head].weighting, weighting)


def test_parameters_of_ntm_heads_give_the_weightings_of_the_step():
    core, pairs = steps("ntm")
    for before, after in pairs[1:]:
        heads = core.access(before, after).heads.values()
        gates, shifts, exponents, strengths = (
            torch.stack([head.parameters[name] for head in heads], dim=1)
            for name in ("gate", "shift", "sharpness", "key strength")
        )
        keys = core.head_parameters(core.unpack(after).hidden).keys
        content = addressing.content_weighting(core.memory(before), keys, strengths)
        gated = addressing.interpolate(content, core.unpack(before).weightings, gates)
        expected = addressing.sharpen(addressing.shift(gated, shifts), exponents)
        assert torch.allclose(core.unpack(after).weightings, expected, atol=1e-6)


def test_read_modes_of_a_dnc_give_the_weightings_of_the_step():
    core, pairs = steps("dnc")
    for before, after in pairs:
        access, parts = core.access(before, after), core.unpack(after)
        last = core.unpack(before).read_weightings
        backward = dnc_addressing.backward_weightings(access.links, last)
        forward = dnc_addressing.forward_weightings(access.links, last)
        keys = core.interface(parts.hidden).keys[:, :2]
        strengths, modes = (
            torch.stack([access.heads[f"read {head}"].parameters[name] for head in (1, 2)], dim=1)
            for name in ("key strength", "read mode")
        )
        content = addressing.content_weighting(parts.memory, keys, strengths)
        expected = dnc_addressing.read_weightings(backward, content, forward, modes)
        assert torch.allclose(parts.read_weightings, expected, atol=1e-6)


@pytest.mark.parametrize("name", core_names())
def test_activations_are_parts_of_the_state(name):
    core, pairs = steps(name)
    for before, after in pairs:
        for activation in core.activations(after).values():
            assert activation.dim() == 2 and len(activation) == 3
            assert torch.isin(activation, after).all()
        assert set(core.access(before, after).heads) >= set(core.weightings(after))
