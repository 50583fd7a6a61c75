"""The test whether a file system's locks hold."""

import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import BaseFileLock

from mergesearch.errors import UserError
from mergesearch.search.study import lock_test, locks
from mergesearch.search.study.lock_test import check_locks, check_others, file_system
from mergesearch.search.study.locks import VARIABLE, file_lock
from mergesearch.search.study.run_folder import RunFolder


@pytest.fixture(params=["auto", "soft"], autouse=True)
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv(VARIABLE, request.param)
    return str(request.param)


@pytest.fixture
def is_remote(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock_test, "file_system", lambda _: "nfs4")


def of_another_file(file: Path) -> BaseFileLock:
    return locks.file_lock(file.with_name("another.lock"))


@pytest.mark.usefixtures("is_remote")
def test_locks_that_hold(tmp_path: Path) -> None:
    check_locks(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("is_remote")
def test_locks_that_do_not_hold(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock_test, "file_lock", of_another_file)
    with pytest.raises(UserError, match=r"two processes had the same lock; .*--storage and --artifacts") as refused:
        check_locks(tmp_path)
    assert ("MERGESEARCH_LOCK=soft" in str(refused.value)) == (kind == "auto")


def test_local_file_systems_are_not_tested(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock_test, "file_lock", of_another_file)
    monkeypatch.setattr(lock_test, "file_system", lambda _: "ext4")
    check_locks(tmp_path)


def test_the_file_system_is_that_of_the_nearest_mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, mounts = tmp_path.resolve() / "a b", tmp_path / "mountinfo"
    lines = [
        "1 0 8:1 / / rw shared:1 - ext4 /dev/sda rw",
        f"2 1 0:1 / {tmp_path.resolve()} rw - xfs /dev/sdb rw",
        f"3 2 0:2 / {str(place).replace(' ', chr(92) + '040')} rw - tmpfs none rw",
        f"4 3 0:3 / {str(place).replace(' ', chr(92) + '040')} rw - nfs4 host:/x rw",
    ]
    mounts.write_text("\n".join(lines) + "\n")
    monkeypatch.setattr(lock_test, "MOUNTS", mounts)
    place.mkdir()
    assert [file_system(folder) for folder in (Path("/"), tmp_path, place)] == ["ext4", "xfs", "nfs4"]
    monkeypatch.setattr(lock_test, "MOUNTS", tmp_path / "none")
    assert file_system(place) == ""


def saying(file: Path, is_over: threading.Event) -> None:
    count = 0
    while not is_over.wait(0.1):
        count += 1
        file.write_text(str(count))


def worker_of(host: str, folder: Path) -> Path:
    """The files of a worker; gives the one that says what it does."""
    for name in ("workers", "now"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / f"{host}.1.abc").write_text("0")
    return folder / "now" / f"{host}.1.abc"


def beside(file: Path) -> Callable[[], None]:
    is_over = threading.Event()
    thread = threading.Thread(target=saying, args=(file, is_over))
    thread.start()

    def end() -> None:
        is_over.set()
        thread.join()

    return end


# A soft lock is a file, which is seen wherever the file is.
@pytest.mark.parametrize("kind", ["auto"], indirect=True)
def test_a_worker_of_another_host_whose_lock_is_not_seen(tmp_path: Path) -> None:
    end = beside(worker_of("elsewhere", tmp_path))
    try:
        with (
            pytest.raises(
                UserError, match=r"elsewhere\.1\.abc is at work on another host, and its lock is not seen here"
            ),
            RunFolder(tmp_path).joined(),
        ):
            pass
    finally:
        end()
    assert (tmp_path / "workers" / "elsewhere.1.abc").exists(), "it is left alone"


def test_dead_workers_of_other_hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock_test, "SILENT", 0.3)
    worker_of("elsewhere", tmp_path)
    check_others(tmp_path)


def test_workers_that_hold_their_locks_cost_no_time(tmp_path: Path) -> None:
    worker_of(socket.gethostname(), tmp_path)
    file = worker_of("elsewhere", tmp_path)
    end = beside(file)
    try:
        with file_lock(tmp_path / "workers" / file.name):
            begun = time.monotonic()
            check_others(tmp_path)
            assert time.monotonic() - begun < lock_test.SILENT / 2
    finally:
        end()
