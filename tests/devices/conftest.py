"""The devices on which the tests of this folder run: a GPU, and everywhere a device that stands in for one."""

import pytest
import torch

from ntm_rl.kernels.compiler import BuildError
from stand_in_device import load_stand_in


@pytest.fixture(params=["stand_in", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request) -> torch.device:
    """The device; results on it are compared with those of the CPU."""
    if request.param == "cuda":
        if not torch.cuda.is_available():
            pytest.skip("torch sees no CUDA device")
        return torch.device("cuda", 0)
    try:
        return torch.device(load_stand_in(), 0)
    except BuildError as error:
        pytest.skip(f"the stand-in cannot be built: {error}")


@pytest.fixture(autouse=True)
def one_seed():
    torch.manual_seed(0)
