"""Locks between processes: who holds one, and what is left of it when its holder is killed."""

import multiprocessing
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
from filelock import Timeout

from mergesearch.errors import UserError
from mergesearch.search.study import locks
from mergesearch.search.study.journal import journal_lock
from mergesearch.search.study.locks import VARIABLE, file_lock, held_lock
from mergesearch.search.study.workers import Workers

FORK = multiprocessing.get_context("fork")


@pytest.fixture(params=["auto", "soft"], autouse=True)
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv(VARIABLE, request.param)
    return str(request.param)


def start(work: Callable[..., Any], *arguments: Any) -> BaseProcess:
    process = FORK.Process(target=work, args=arguments, daemon=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads
        process.start()
    return process


def is_free(file: Path) -> bool:
    try:
        with file_lock(file).acquire(blocking=False):
            return True
    except Timeout:
        return False


def hold(file: Path, held: Any) -> None:
    with file_lock(file):
        held.set()
        time.sleep(60)


def add_up(lock: Path, counter: Path, times: int) -> None:
    for _ in range(times):
        with file_lock(lock):
            count = int(counter.read_text())
            time.sleep(0.0005)
            counter.write_text(str(count + 1))


def test_processes_and_threads_exclude_each_other(tmp_path: Path) -> None:
    lock, counter = tmp_path / "lock", tmp_path / "counter"
    counter.write_text("0")
    processes = [start(add_up, lock, counter, 20) for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: add_up(lock, counter, 20), range(2)))
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    assert counter.read_text() == "80"


def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    lock, held = tmp_path / "lock", FORK.Event()
    holder = start(hold, lock, held)
    assert held.wait(30)
    assert not is_free(lock)
    holder.kill()
    holder.join()
    begun = time.perf_counter()
    with file_lock(lock):
        assert time.perf_counter() - begun < 5


def test_a_child_of_a_fork_does_not_hold_its_parents_locks(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with file_lock(lock):
        child = start(time.sleep, 60)
        assert not is_free(lock)
    assert is_free(lock)
    child.kill()
    child.join()


def fork_and_hold(lock: Path, held: Any, child: Any) -> None:
    with file_lock(lock):
        forked = os.fork()
        if forked:
            child.value = forked
            held.set()
        time.sleep(60)


def test_a_lock_ends_with_its_process_even_where_a_child_lives_on(tmp_path: Path) -> None:
    lock, held, child = tmp_path / "lock", FORK.Event(), FORK.Value("i", 0)
    holder = start(fork_and_hold, lock, held, child)
    assert held.wait(30)
    holder.kill()
    holder.join()
    os.kill(child.value, 0)
    assert is_free(lock)
    os.kill(child.value, signal.SIGKILL)


def test_waiting_takes_no_longer_than_the_holder(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    begun, waits = threading.Event(), []

    def wait() -> None:
        begun.set()
        with file_lock(lock):
            waits.append(time.perf_counter())

    with ThreadPoolExecutor(1) as pool:
        with file_lock(lock):
            waiting = pool.submit(wait)
            begun.wait()
            time.sleep(0.1)
            released = time.perf_counter()
        waiting.result()
    assert 0 <= waits[0] - released < 1


def test_a_killed_worker_is_dead_at_once(tmp_path: Path) -> None:
    workers, names = Workers(tmp_path), FORK.Queue()

    def work() -> None:
        with workers.joined() as name:
            names.put(name)
            time.sleep(60)

    processes = [start(work) for _ in range(2)]
    one, two = names.get(timeout=30), names.get(timeout=30)
    assert workers.living() == sorted([one, two])
    victim, other = processes if one.split(".")[-2] == str(processes[0].pid) else processes[::-1]
    victim.kill()
    victim.join()
    assert workers.is_dead(one)
    assert not workers.is_dead(two)
    assert workers.living() == [two]
    other.kill()
    other.join()
    assert workers.living() == []
    assert not list(tmp_path.iterdir())


def test_a_worker_that_nobody_has_seen_leaves_no_file(tmp_path: Path) -> None:
    workers = Workers(tmp_path)
    with workers.joined() as name:
        pass
    assert workers.is_dead(name)
    assert not list(tmp_path.iterdir())
    assert not workers.is_dead("another-host.1.1")


@pytest.mark.parametrize(
    ("content", "whole"),
    [
        (b"", b""),
        (b'{"a": 1}\n', b'{"a": 1}\n'),
        (b'{"a": 1}\n{"b"', b'{"a": 1}\n'),
        (b'{"a"', b""),
        (b'{"a": 1}\n' + b"x" * 200_000, b'{"a": 1}\n'),
    ],
)
def test_the_journals_lock_cuts_half_a_line_off(tmp_path: Path, content: bytes, whole: bytes) -> None:
    journal = tmp_path / "study.log"
    journal.write_bytes(content)
    for _ in range(2):
        with journal_lock(journal):
            assert journal.read_bytes() == whole
            assert not is_free(tmp_path / "study.lock")
        assert is_free(tmp_path / "study.lock")


def test_a_journal_that_cannot_be_read_leaves_no_lock(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), journal_lock(tmp_path / "study.log"):
        pass
    assert is_free(tmp_path / "study.lock")


def hold_said(file: Path, held: Any) -> None:
    with held_lock(file):
        held.set()
        time.sleep(60)


def test_a_process_that_is_stopped_while_it_holds_the_lock_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "PATIENCE", 0.3)
    monkeypatch.setattr(locks, "SOFT_SECONDS", 3.0)  # after a kill, a soft lock is taken over so late
    lock, held, said = tmp_path / "lock", FORK.Event(), list[str]()
    holder = start(hold_said, lock, held)
    assert held.wait(30)
    os.kill(holder.pid or 0, signal.SIGSTOP)
    ending = threading.Timer(1.5, holder.kill)
    ending.start()
    with held_lock(lock, said.append):
        assert f"waiting for process {holder.pid} on " in said[0]
        assert f"is stopped: `kill -CONT {holder.pid}` continues it" in said[0]
        assert len(said) > 1
    holder.join()


def test_a_lock_whose_holder_is_unknown_is_waited_for_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "PATIENCE", 0.1)
    lock, said, begun = tmp_path / "lock", list[str](), threading.Event()

    def wait() -> None:
        begun.set()
        with held_lock(lock, said.append):
            pass

    (tmp_path / "lock.holder").write_text("\0garbage")
    with ThreadPoolExecutor(1) as pool:
        with file_lock(lock):
            waiting = pool.submit(wait)
            begun.wait()
            time.sleep(0.5)
        waiting.result()
    assert said[0].startswith(("waiting for another process, ", f"waiting for process {os.getpid()} on "))
    assert f"which holds the lock {lock}" in said[0]


def test_unknown_kinds_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "sofd")
    with pytest.raises(UserError, match="MERGESEARCH_LOCK: there is no kind of lock 'sofd'; did you mean 'soft'"):
        file_lock(tmp_path / "lock")
