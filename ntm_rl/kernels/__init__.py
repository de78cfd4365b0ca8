"""Fused sequence kernels; each has an eager reference that is its specification."""
