"""Fused sequence kernels; each has an eager implementation as its specification."""
