"""The logs of a run: CSV, TensorBoard and W&B."""
