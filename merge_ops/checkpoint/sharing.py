"""Processes of one machine that work on the same checkpoints, and share these in memory."""

import os

SHARERS = "MERGESEARCH_SHARERS"
"""The environment variable with their number. Whoever starts the processes sets it."""


def sharing_processes() -> int:
    """Returns how many processes share the checkpoints in memory, this one included."""
    count = os.environ.get(SHARERS, "")
    return max(1, int(count)) if count.isdigit() else 1
