"""Vector environments that step all sub-environments with NumPy operations."""
