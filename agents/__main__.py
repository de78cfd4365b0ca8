"""`python -m ntm_rl.agents`, the same as `ntm-rl`."""

import sys

from ntm_rl.agents.cli.main import main

sys.exit(main())
