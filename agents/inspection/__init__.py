"""Evaluation, videos and figures of finished runs."""
