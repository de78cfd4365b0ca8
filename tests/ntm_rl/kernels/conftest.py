import pytest

from ntm_rl.kernels.loader import load_kernels


@pytest.fixture
def kernel():
    """Skips a test where the kernels cannot be built."""
    if not load_kernels():
        pytest.skip("no compiler")
