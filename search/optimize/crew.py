"""The workers of one machine: a process for each, which is watched, and started again where it dies.

The workers are those of any run (see ``Workers``): they ask for trials and tell them on their own. The crew only starts
them, each with a GPU or a share of the processors of its own, and ends them together.
"""

import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from time import monotonic
from typing import IO, Literal

from mergesearch.errors import UserError
from mergesearch.merge_ops.checkpoint.sharing import SHARERS
from mergesearch.say import Say
from mergesearch.search.study.stop import Stopped
from mergesearch.text import LINE, shown

PATIENCE = 3
"""How often in a row a worker is started again that has died before it finished a trial."""
GRACE = 60.0
"""Seconds that a worker has to end when it is asked to, before it is killed."""
LOOK = 0.2
"""Seconds from one look at the workers to the next."""
VISIBLE, THREADS = "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS"
BAD_INPUT, INTERRUPTED = 2, 130
"""Exit codes of a command that says what is wrong with its input, and of one that was interrupted."""


@dataclass(frozen=True)
class Post:
    """Where a worker works: in words, and by the variables of its environment."""

    place: str
    variables: Mapping[str, str]


def posts(workers: int | Literal["auto"], device: str) -> list[Post]:
    """One for each worker. ``auto``: one for each GPU, and without GPUs one.

    On GPUs, each worker has one to itself, or shares it where there are more workers than GPUs. On the CPU, each has
    its share of the processors as threads, unless ``OMP_NUM_THREADS`` says how many.
    """
    gpus = [] if device == "cpu" else _gpus()
    count = max(1, len(gpus)) if workers == "auto" else workers
    shared = {SHARERS: str(count)}
    if gpus:
        chosen = [gpus[number % len(gpus)] for number in range(count)]
        return [Post(f"GPU {gpu}", shared | {VISIBLE: gpu}) for gpu in chosen]
    threads = os.environ.get(THREADS) or str(max(1, _processors() // count))
    return [Post(f"{threads} of {_processors()} processors", shared | {THREADS: threads})] * count


def _gpus() -> list[str]:
    """The GPUs that torch sees, as ``CUDA_VISIBLE_DEVICES`` names them."""
    import torch

    count = torch.cuda.device_count()
    named = [name.strip() for name in os.environ.get(VISIBLE, "").split(",") if name.strip()]
    return named[:count] or [str(number) for number in range(count)]


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass
class _Member:
    """A worker's process, and how often in a row it has died without a trial."""

    name: str
    post: Post
    process: subprocess.Popen[bytes]
    errors: IO[bytes]
    deaths: int = 0

    def last_words(self) -> list[str]:
        """What it wrote to its standard error, by lines."""
        self.errors.seek(0)
        lines = self.errors.read().decode(errors="replace").splitlines()
        return [line for line in lines if line.strip()]

    def close(self) -> None:
        """Lets go of a process that has ended."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.errors.close()


@dataclass
class Crew:
    """Workers, each the process of a ``command``.

    Args:
        command: what a worker runs, as arguments of Python.
        posts: where each works.
        finished: how many trials the worker with a process number has finished.
        say: is told of workers that died.
    """

    command: Sequence[str]
    posts: Sequence[Post]
    finished: Callable[[int], int]
    say: Say
    _members: list[_Member] = field(default_factory=list, init=False)
    _done: int = field(default=0, init=False)
    _is_stopped: bool = field(default=False, init=False)

    def run(self, look: Callable[[], None]) -> None:
        """Works until all workers have ended. ``look`` is called about five times a second.

        Raises:
            UserError: a worker ended because of bad input, or every worker died.
            Stopped: workers were asked to stop.
        """
        is_over = threading.Event()
        with self._ended_together():
            for number, post in enumerate(self.posts, 1):
                self._members.append(self._started(f"worker {number}", post))
            while self._members:
                is_over.wait(LOOK)
                look()
                for member in [each for each in self._members if each.process.poll() is not None]:
                    self._members.remove(member)
                    self._replace(member)
        if self._is_stopped:
            raise Stopped
        if not self._done:
            raise UserError("every worker died; the run's log says of what")

    def _started(self, name: str, post: Post, deaths: int = 0) -> _Member:
        errors = tempfile.TemporaryFile()  # noqa: SIM115 - it is closed with its member
        process = subprocess.Popen(
            [sys.executable, *self.command],
            env={**os.environ, **post.variables},
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            start_new_session=True,  # the terminal's Ctrl-C is for the crew, which ends its members
        )
        return _Member(name, post, process, errors, deaths)

    def _replace(self, member: _Member) -> None:
        """Takes note of how a worker ended, and starts it again where it died."""
        code, words = member.process.returncode, member.last_words()
        member.close()
        if code == 0:
            self._done += 1
        elif code == INTERRUPTED:
            self._is_stopped = True
        elif code == BAD_INPUT:
            raise UserError(*(line.removeprefix("error: ") for line in words))
        else:
            self._start_again(member, f"{member.name} ({member.post.place}) died{_of(code, words)}")

    def _start_again(self, member: _Member, died: str) -> None:
        deaths = 1 + (0 if self.finished(member.process.pid) else member.deaths)
        if deaths > PATIENCE:
            self.say(f"{died}; it is left, because it died {deaths} times before it had finished a trial")
            return
        self.say(f"{died}; it is started again")
        self._members.append(self._started(member.name, member.post, deaths))

    @contextmanager
    def _ended_together(self) -> Iterator[None]:
        """Ends every worker where the crew ends early; a second interrupt kills them."""
        try:
            yield
        finally:
            try:
                self._end(signal.SIGINT, GRACE)
            finally:
                self._end(signal.SIGKILL, GRACE)
                for member in self._members:
                    member.close()

    def _end(self, number: int, seconds: float) -> None:
        for member in self._members:
            with suppress(ProcessLookupError):
                member.process.send_signal(number)
        until = monotonic() + seconds
        for member in self._members:
            with suppress(subprocess.TimeoutExpired):
                member.process.wait(max(0.0, until - monotonic()))


def _of(code: int, words: Sequence[str]) -> str:
    """Of what a process died, with its last words."""
    how = f" of {signal.Signals(-code).name}" if code < 0 else f" with exit code {code}"
    return how + (f": {shown(words[-1], LINE)}" if words else "")


def follow_crew() -> None:
    """Interrupts this process, as Ctrl-C does, when its crew has ended: then its standard input is closed."""

    def wait() -> None:
        while os.read(sys.stdin.fileno(), 1):  # sys.stdin itself cannot be read while Python ends
            pass
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=wait, daemon=True).start()
