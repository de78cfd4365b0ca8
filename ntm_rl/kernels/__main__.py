"""`python -m ntm_rl.kernels`: load the C++ kernels, building them if need be, and print which ones are used and why."""

import sys

from ntm_rl.kernels.loader import load_library

library = load_library()
if library is None:
    sys.exit(1)
print(f"C++ kernels: {library.path} ({library.reason})")
