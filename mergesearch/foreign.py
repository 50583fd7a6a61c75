"""Calls of code of other people: evaluators, functions of tasks, merge methods, plugins."""

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
    here: it must not go on with its parent's work. The current folder is what it was before: paths are relative to it.
    """
    process, folder = os.getpid(), _current_folder()
    try:
        yield
    except (Exception, KeyboardInterrupt, Terminated, Interruption) as error:
        _end_child(process, error)
        raise
    except BaseException as error:
        _end_child(process, error)
        raise ForeignExitError(f"{whose}: {_said(error)}") from error
    finally:
        if folder is not None and _current_folder() != folder:
            os.chdir(folder)
    _end_child(process, None)


def _current_folder() -> Path | None:
    try:
        return Path.cwd()
    except OSError:  # it was removed
        return None


def _end_child(process: int, error: BaseException | None) -> None:
    """Ends a child as Python would, without what was to be done at the end of its parent."""
    if os.getpid() == process:
        return
    status: object = error.code if isinstance(error, SystemExit) else int(error is not None)
    if error is not None and not isinstance(error, SystemExit):
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status & 0xFF if isinstance(status, int) else int(status is not None))


def _said(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return f"sys.exit({error.code!r}) was called {raised_in(error)}; raise an exception instead"
    return f"{in_words(error)} {raised_in(error)}"
