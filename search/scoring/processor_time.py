"""The clock for what is compared within a run: other load on the machine does not turn it."""

import os


def processor_seconds() -> float:
    """The processor time of this process, all threads together, and of the programs that it has run and awaited."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
