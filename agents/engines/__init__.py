"""Engines run jobs, such as trainings, in this process, in processes of this machine or on a cluster."""
