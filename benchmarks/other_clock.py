"""A clock that is off, for the processes of Python that one host starts.

Python imports ``sitecustomize`` when it starts. Ours moves ``time.time``, by which leases and logs go, and leaves
``datetime`` alone. What waits goes by another clock, as it does where a host's clock is set wrong. (libfaketime 0.9.10
would not do: with it, ``time.sleep`` fails.)
"""

from pathlib import Path

HOUR = 3600
CODE = """\
import os
import time

SHIFT = int(os.environ["CLOCK_SHIFT"])
true_time, true_time_ns = time.time, time.time_ns
time.time = lambda: true_time() + SHIFT
time.time_ns = lambda: true_time_ns() + SHIFT * 10**9
"""


def other_clock(folder: Path, seconds: int, path: str) -> dict[str, str]:
    """Returns the variables of an environment in which the time of day is off; ``path`` is its PYTHONPATH else."""
    (folder / "sitecustomize.py").write_text(CODE, encoding="utf-8")
    return {"CLOCK_SHIFT": str(seconds), "PYTHONPATH": f"{folder}:{path}"}
