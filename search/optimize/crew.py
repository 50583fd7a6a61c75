"""The workers of one machine: a process for each, which is watched, and started again where it dies.

The workers are those of any run (see ``Workers``): they ask for trials and tell them on their own. The crew only starts
them, each with a GPU or a share of the processors of its own, and ends them together.
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from time import monotonic, sleep
from typing import IO, Literal, Protocol

from mergesearch.errors import UserError
from mergesearch.merge_ops.checkpoint.sharing import SHARERS
from mergesearch.say import Say
from mergesearch.search.study.environment import processors
from mergesearch.search.study.stop import Stopped
from mergesearch.text import LINE, shown

PATIENCE = 3
"""How often in a row a worker is started again that has died before it finished a trial."""
GRACE = 60.0
"""Seconds that a worker has to end when it is asked to, before it is killed."""
LOOK = 0.2
"""Seconds from one look at the workers to the next."""
VISIBLE, THREADS = "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS"
BAD_INPUT, INTERRUPTED, TERMINATED = 2, 130, 143
"""The exit codes of a command that says what is wrong with its input, and of one that was told to end."""


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
    threads = os.environ.get(THREADS) or str(max(1, processors() // count))
    return [Post(f"{threads} of {processors()} processors", shared | {THREADS: threads})] * count


def _gpus() -> list[str]:
    """The GPUs that torch sees, as ``CUDA_VISIBLE_DEVICES`` names them."""
    import torch

    count = torch.cuda.device_count()
    named = [name.strip() for name in os.environ.get(VISIBLE, "").split(",") if name.strip()]
    return named[:count] or [str(number) for number in range(count)]


class Member(Protocol):
    """A worker that somebody has started. ``id``: by which its trials are counted."""

    id: str

    def code(self) -> int | None:
        """The exit code of its command; None while it works."""

    def last_words(self) -> list[str]:
        """What it said when it ended, by lines."""

    def send(self, number: int) -> None:
        """Asks it to end (SIGTERM), or ends it (SIGKILL)."""

    def wait(self, seconds: float) -> None:
        """Waits for its end, not for longer than this."""

    def close(self) -> None:
        """Lets go of it after its end."""


class ProcessMember:
    """A worker that is the process of a ``command``, as arguments of Python."""

    def __init__(self, command: Sequence[str], post: Post) -> None:
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - close() does
        self.process = subprocess.Popen(
            [sys.executable, *command],
            env={**os.environ, **post.variables},
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=self._errors,
            start_new_session=True,  # the terminal's Ctrl-C is for the crew, which ends its members
        )
        self.id = f"{socket.gethostname()}.{self.process.pid}."

    def code(self) -> int | None:
        """See ``Member.code``."""
        return self.process.poll()

    def last_words(self) -> list[str]:
        """What it wrote to its standard error, by lines."""
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").splitlines()
        return [line for line in lines if line.strip()]

    def send(self, number: int) -> None:
        """See ``Member.send``."""
        with suppress(ProcessLookupError):
            self.process.send_signal(number)

    def wait(self, seconds: float) -> None:
        """See ``Member.wait``."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)

    def close(self) -> None:
        """See ``Member.close``."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self._errors.close()


@dataclass
class _Place:
    """A worker's place, who has it, and how often in a row one has died there without a trial."""

    name: str
    post: Post
    member: Member
    deaths: int = 0


@dataclass
class Crew:
    """Workers, one at each post.

    Args:
        start: starts a worker at a post.
        posts: where each works.
        finished: how many trials the worker with an id has finished.
        say: is told of workers that died.
    """

    start: Callable[[Post], Member]
    posts: Sequence[Post]
    finished: Callable[[str], int]
    say: Say
    _places: list[_Place] = field(default_factory=list, init=False)
    _done: int = field(default=0, init=False)
    _is_stopped: bool = field(default=False, init=False)

    def run(self, look: Callable[[], None]) -> None:
        """Works until all workers have ended. ``look`` is called about five times a second.

        Raises:
            UserError: a worker ended because of bad input, or every worker died.
            Stopped: workers were asked to stop.
        """
        with self._ended_together():
            for number, post in enumerate(self.posts, 1):
                self._places.append(_Place(f"worker {number}", post, self.start(post)))
            while self._places:
                sleep(LOOK)
                look()
                for place in list(self._places):
                    if (code := place.member.code()) is not None:
                        self._places.remove(place)
                        self._replace(place, code)
        if self._is_stopped:
            raise Stopped
        if not self._done:
            raise UserError("every worker died; the run's log says of what")

    def _replace(self, place: _Place, code: int) -> None:
        """Takes note of how a worker ended, and starts it again where it died."""
        words = place.member.last_words()
        place.member.close()
        if code == 0:
            self._done += 1
        elif code in (INTERRUPTED, TERMINATED):
            self._is_stopped = True
        elif code == BAD_INPUT:
            raise UserError(*(line.removeprefix("error: ") for line in words))
        else:
            self._start_again(place, f"{place.name} ({place.post.place}) died{_of(code, words)}")

    def _start_again(self, place: _Place, died: str) -> None:
        deaths = 1 + (0 if self.finished(place.member.id) else place.deaths)
        if deaths > PATIENCE:
            self.say(f"{died}; it is left, because it died {deaths} times before it had finished a trial")
            return
        self.say(f"{died}; it is started again")
        self._places.append(_Place(place.name, place.post, self.start(place.post), deaths))

    @contextmanager
    def _ended_together(self) -> Iterator[None]:
        """Ends every worker where the crew ends early; a second interrupt kills them."""
        try:
            yield
        finally:
            try:
                # Not SIGINT: what a shell starts in the background ignores it.
                self._end(signal.SIGTERM, GRACE)
            finally:
                self._end(signal.SIGKILL, GRACE)
                for place in self._places:
                    place.member.close()

    def _end(self, number: int, seconds: float) -> None:
        for place in self._places:
            place.member.send(number)
        until = monotonic() + seconds
        for place in self._places:
            place.member.wait(max(0.0, until - monotonic()))


def _of(code: int, words: Sequence[str]) -> str:
    """Of what a process died, with its last words."""
    how = f" of {signal.Signals(-code).name}" if code < 0 else f" with exit code {code}"
    return how + (f": {shown(words[-1], LINE)}" if words else "")


def follow_crew() -> None:
    """Ends this process, as SIGTERM does, when its crew has ended: then its standard input is closed."""

    def wait() -> None:
        while os.read(sys.stdin.fileno(), 1):  # sys.stdin itself cannot be read while Python ends
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()
