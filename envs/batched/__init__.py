"""Environments that step all their copies at once."""
