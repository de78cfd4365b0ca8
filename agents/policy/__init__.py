"""Policies and the files of agents and networks."""
