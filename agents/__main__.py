"""`python -m ntm_rl.agents`, the same as `ntm-rl`."""

import sys

from ntm_rl.agents.cli import main

sys.exit(main())
