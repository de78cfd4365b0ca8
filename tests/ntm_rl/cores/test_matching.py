"""Cores of the same number of parameters."""

from typing import Annotated

import numpy as np
import pytest
import torch

from ntm_rl.cores import registry
from ntm_rl.cores.base import MemoryCore
from ntm_rl.cores.matching import matched_options, parameter_count
from ntm_rl.cores.registry import core_names, make_core, register_core
from ntm_rl.errors import InputError


def parameters_of(core: str, input_size: int, **options) -> int:
    return sum(each.numel() for each in make_core(core, input_size, **options).parameters())


@pytest.mark.parametrize("core", core_names())
@pytest.mark.parametrize(("input_size", "wanted"), [(4, 50_000), (64, 100_000), (64, 400_000)])
def test_every_core_is_within_a_tenth_and_no_adjacent_size_is_closer(core, input_size, wanted):
    options = matched_options(core, input_size, wanted)
    assert set(options) <= {"hidden_size", "layers"}
    size = options.pop("hidden_size")
    assert size <= wanted**0.5 or options.get("layers") == 2
    missed = {
        each: abs(parameters_of(core, input_size, hidden_size=each, **options) - wanted)
        for each in range(max(1, size - 2), size + 3)
    }
    assert missed[size] == min(missed.values()) and missed[size] <= 0.1 * wanted


def test_the_count_is_that_of_the_formula_and_costs_no_memory():
    assert parameter_count("lstm", 3, hidden_size=5, layers=2) == 4 * 5 * (3 + 5 + 2) + 4 * 5 * (5 + 5 + 2)
    assert parameter_count("feedforward", 10, hidden_size=10**7) == 11 * 10**7


def test_a_wide_perceptron_gets_a_second_layer():
    assert matched_options("feedforward", 4, 5 * 150 + 151 * 150) == {"hidden_size": 150, "layers": 2}
    assert matched_options("feedforward", 512, 513 * 100) == {"hidden_size": 100}


def test_an_exact_match_is_found():
    for size in (1, 2, 3, 7, 128):
        assert matched_options("gru", 9, parameters_of("gru", 9, hidden_size=size)) == {"hidden_size": size}


def test_cores_that_cannot_be_matched_are_an_error(monkeypatch):
    least = parameters_of("lstm", 64, hidden_size=1)
    with pytest.raises(InputError, match=rf"parameters = 20: core 'lstm' with 64 inputs comes no closer than {least}"):
        matched_options("lstm", 64, 20)
    with pytest.raises(InputError, match="core = 'lstn': unknown core"):
        matched_options("lstn", 64, 1000)
    with pytest.raises(InputError, match="parameters = 0: must be an integer of at least 1"):
        matched_options("lstm", 64, 0)
    monkeypatch.setattr(registry, "_CORES", dict(registry._CORES))

    @register_core("sizeless")
    class Sizeless(MemoryCore):
        def __init__(self, input_size: int, *, depth: Annotated[int, "Layers."] = 1):
            super().__init__()

    with pytest.raises(
        InputError, match="core = 'sizeless': cannot be matched because it has no option hidden_size, only depth"
    ):
        matched_options("sizeless", 3, 100)


def test_parameters_may_be_a_numpy_integer_and_the_random_state_is_unchanged():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    assert matched_options("ntm", 3, np.int64(60_000)) == matched_options("ntm", 3, 60_000)
    assert torch.equal(torch.rand(1), expected)
