"""What the fuzz tests share: how many inputs they try, and how long each may take.

``scripts/check --slow tests/malformed`` tries 29,000 inputs: 1,500 of each of seven kinds of files, 10,500 adapters of
random configs and tensors, 500 of each of ten kinds of files of a run's folder, 60 whole runs that go on, and 3,000
models through merge, check and eval. ``tests/search/study/test_journal.py`` has 10,000 journals more.
"""

from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .command import outcome

SAMPLE, MANY = 40, 1500
"""How many inputs of each kind the default tests and the slow ones try."""
WORK = 2.0
"""The seconds of the processor's time that one input may take; what waits for something else hangs later."""
Draw = st.DataObject


def at_once(call: Callable[[], Any]) -> str:
    """What a call does within the time that one input may take; see ``outcome``."""
    return outcome(call, work=WORK)


def fuzz(check: Callable[[Draw], None], examples: int) -> None:
    """Calls the check so many times, each time to draw another input and to try it."""

    @settings(max_examples=examples, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def check_one(draw: Draw) -> None:
        check(draw)

    check_one()
