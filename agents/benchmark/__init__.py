"""Suites of memory tasks: the grid of trainings, scores and the report."""
