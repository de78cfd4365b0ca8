"""Sweeps: searches for hyperparameters with Optuna, whose trials are ordinary runs."""
