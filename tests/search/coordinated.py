"""A run's coordinator in a process of its own, which can be killed, and workers that reach it through a socket."""

import multiprocessing
import threading
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import Any, cast

import torch

from mergesearch.search.candidates.plan import open_plan
from mergesearch.search.config import Config
from mergesearch.search.run import work
from mergesearch.search.study.coordinator import Coordinator
from mergesearch.search.study.exchange import Exchange
from mergesearch.search.study.replica import Replica

from .helpers import Data
from .processes import slowly

FORK = multiprocessing.get_context("fork")


class Caller:
    """An ``Exchange`` that calls the coordinator at a socket, again where it has died meanwhile."""

    def __init__(self, address: Path) -> None:
        self._address, self._own = str(address), threading.local()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda *arguments: _returned(self._call(name, *arguments))

    def _call(self, name: str, *arguments: Any) -> Any:
        until = time.monotonic() + 60
        while time.monotonic() < until:
            with suppress(OSError, EOFError):
                if not hasattr(self._own, "connection"):
                    self._own.connection = Client(self._address)
                self._own.connection.send((name, arguments))
                return self._own.connection.recv()
            if hasattr(self._own, "connection"):
                del self._own.connection
            time.sleep(0.02)
        raise TimeoutError(name)


def _returned(answer: Any) -> Any:
    if isinstance(answer, Exception):
        raise answer
    return answer


def exchange_at(address: Path) -> Exchange:
    """The way to the coordinator at a socket."""
    return cast(Exchange, Caller(address))


def _serve(path: Path, address: Path, session: str) -> None:
    coordinator, turn = Coordinator(path, session), threading.Lock()
    address.unlink(missing_ok=True)
    listener = Listener(str(address))

    def answer(connection: Connection) -> None:
        with suppress(EOFError, OSError):
            while True:
                name, arguments = connection.recv()
                with turn:
                    try:
                        found = getattr(coordinator, name)(*arguments)
                    except Exception as error:
                        found = error
                connection.send(found)

    while True:
        threading.Thread(target=answer, args=(listener.accept(),), daemon=True).start()


def serving(path: Path, address: Path, session: str = "one") -> Any:
    """The process of a coordinator."""
    return _process(_serve, path, address, session)


def _work(config: Data, address: Path, here: Path, pause: float) -> None:
    torch.set_num_threads(1)
    slowly(pause)
    plan = open_plan(Config.model_validate(config), "config")
    work(Replica(here / plan.problem.config.output.name, exchange_at(address)), plan)


def started_elsewhere(config: Data, address: Path, here: Path, pause: float = 0.05) -> Any:
    """A process at a run whose folder it does not have; its replica is in the folder ``here``."""
    return _process(_work, config, address, here, pause)


def _process(target: Callable[..., None], *arguments: Any) -> Any:
    process = FORK.Process(target=target, args=arguments)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads: the child sets torch to one
        process.start()
    return process
