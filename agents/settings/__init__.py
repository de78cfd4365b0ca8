"""Configs: schema, loading and validation."""
