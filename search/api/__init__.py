"""The Python API: the commands as functions that return their results. Its names are those of ``mergesearch``."""
