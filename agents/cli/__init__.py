"""The commands of `ntm-rl`."""
