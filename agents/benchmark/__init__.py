"""The memory benchmark: suites of tasks, grids of trainings, scores and reports."""
