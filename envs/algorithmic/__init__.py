"""The NTM paper's algorithmic tasks and their kin: generators of sequences, each also played as an environment.

A task lives in a file of its own; `registry.py` lists them by name, `env.py` plays any of them.
"""
