"""Evaluation, films and figures of finished runs."""
