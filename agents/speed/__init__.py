"""Benchmarks of speed and memory use."""
