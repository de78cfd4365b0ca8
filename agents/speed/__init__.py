"""Measurements of speed, memory and the cost of cores."""
