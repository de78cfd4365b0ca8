"""Diagnostic environments of memory alone: how long an agent remembers, and how much.

One file an environment; `registration.py` gives them their ids.
"""
