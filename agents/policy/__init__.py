"""Policies and their files: an agent without its algorithm."""
