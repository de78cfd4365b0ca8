"""The supervised trainer of the algorithmic tasks."""
