"""Names of metrics."""

STEPS = "time/total_timesteps"
