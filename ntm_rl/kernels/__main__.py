"""`python -m ntm_rl.kernels`: build the C++ kernels now instead of on first use."""

import sys

from ntm_rl.kernels.loader import load_kernels

sys.exit(0 if load_kernels() else 1)
