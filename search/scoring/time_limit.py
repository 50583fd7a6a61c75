"""The time limit of a candidate: code that takes too long is interrupted, and a process that does not react ends."""

import ctypes
import faulthandler
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import IO

from mergesearch.foreign import Interruption
from mergesearch.search.study.attempts import TIMED_OUT, leave, say_end

GRACE = 30.0
"""Seconds that code has to react to the interruption before its process ends."""
REPEATED = 5.0
"""Seconds from one interruption to the next, where code goes on after one."""
SIGNAL = getattr(signal, "SIGVTALRM", None)
"""The signal by which the main thread is interrupted; code that scores texts uses SIGALRM itself."""


class TimedOutError(RuntimeError):
    """The candidate took longer than its time limit."""


class _Interrupted(Interruption):
    """Ends the candidate's code wherever it is."""


@contextmanager
def limited(seconds: float | None, log: IO[str]) -> Iterator[None]:
    """Raises TimedOutError once its body has taken so many seconds; None sets no limit.

    Python code is interrupted at its next instruction, and so are waits for files, pipes and processes. Code in C is
    interrupted when it returns. Where it does not return within ``GRACE`` seconds, it cannot be interrupted: the
    process ends, and ``log`` says why.
    """
    if seconds is None:
        yield
        return
    watchdog = _Watchdog(seconds, log)
    try:
        with watchdog.watching():
            yield
    except _Interrupted:
        watchdog.is_over.set()
        raise TimedOutError(f"took longer than search.trial_timeout allows, {seconds:g} s") from None


class _Watchdog:
    def __init__(self, seconds: float, log: IO[str]) -> None:
        self._seconds, self._log = seconds, log
        self._thread = threading.get_ident()
        self._by_signal = SIGNAL is not None and threading.current_thread() is threading.main_thread()
        self.is_over = threading.Event()

    @contextmanager
    def watching(self) -> Iterator[None]:
        with ExitStack() as stack:
            if self._by_signal:
                stack.enter_context(_handled(self._raise))
            # Beside the thread, which cannot run while code in C holds Python's lock.
            faulthandler.dump_traceback_later(self._seconds + GRACE + 1, exit=True, file=self._log)
            stack.callback(faulthandler.cancel_dump_traceback_later)
            threading.Thread(target=self._watch, daemon=True).start()
            stack.callback(self.is_over.set)
            yield

    def _watch(self) -> None:
        if self.is_over.wait(self._seconds):
            return
        for _ in range(max(1, round(GRACE / REPEATED))):
            self._interrupt()
            if self.is_over.wait(min(REPEATED, GRACE)):
                return
        why = f"by search.trial_timeout, {self._seconds:g} s, in code that does not react to an interruption"
        say_end(self._log, TIMED_OUT, why)
        leave(2)

    def _interrupt(self) -> None:
        if self._by_signal:
            assert SIGNAL is not None
            signal.pthread_kill(self._thread, SIGNAL)
        else:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self._thread), ctypes.py_object(_Interrupted))

    def _raise(self, _: int, __: FrameType | None) -> None:
        if not self.is_over.is_set():
            raise _Interrupted


@contextmanager
def _handled(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    assert SIGNAL is not None
    before = signal.signal(SIGNAL, handler)
    try:
        yield
    finally:
        signal.signal(SIGNAL, signal.SIG_DFL if before is None else before)  # None: a handler of code in C
