"""Names of metrics."""

from ntm_rl.agents.settings.kinds import PPO

STEPS = PPO.steps_metric
