"""Loggers: CSV, TensorBoard and Weights & Biases."""
