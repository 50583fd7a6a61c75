"""Calls of code of other people: evaluators, functions of tasks, merge methods, plugins."""

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from mergesearch.errors import ForeignExitError, in_words, raised_in


class Terminated(SystemExit):
    """The end of the process that SIGTERM asks for; see ``files.ended_by_exception``."""


class Interruption(BaseException):
    """Raised by this project within code of other people, so that no handler of theirs stops it."""


@contextmanager
def other_code(whose: str) -> Iterator[None]:
    """Around a call of other people's code, which ``whose`` names, as in ``task 'qa'``.

    ``sys.exit`` and other exceptions that would pass by every handler become ``ForeignExitError``, with the place where
    they were raised. Ctrl-C and SIGTERM pass. A child that the code forked, and that comes back from the call, ends
    here: it must not go on with its parent's work.
    """
    process = os.getpid()
    try:
        yield
    except (Exception, KeyboardInterrupt, Terminated, Interruption):
        _end_child(process, 1)
        raise
    except BaseException as error:
        _end_child(process, 1)
        raise ForeignExitError(f"{whose}: {_said(error)}") from error
    _end_child(process, 0)


def _end_child(process: int, status: int) -> None:
    if os.getpid() != process:
        if status:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _said(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return f"sys.exit({error.code!r}) was called {raised_in(error)}; raise an exception instead"
    return f"{in_words(error)} {raised_in(error)}"
