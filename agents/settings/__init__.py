"""Configs: the schema, loading and checking, all before anything is created."""
