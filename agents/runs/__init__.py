"""Run folders and the training loop of all algorithms."""
