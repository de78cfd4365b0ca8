"""`python -m ntm_rl`, the same as `ntm-rl`."""

import sys

from ntm_rl_main import main

sys.exit(main())
