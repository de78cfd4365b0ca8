"""Diagnostic environments that measure how long and how much an agent remembers.

Each environment has its own file; `registration.py` registers their ids.
"""
