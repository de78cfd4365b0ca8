"""The algorithmic tasks of the NTM paper and similar ones, as sequence generators and as environments.

Each task has its own file; `registry.py` lists them by name, and `env.py` plays any of them.
"""
