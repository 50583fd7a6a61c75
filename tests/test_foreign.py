"""Code of other people cannot end a process unseen, nor go on with its work in a forked child."""

import asyncio
import os
import sys
from pathlib import Path

import pytest

from mergesearch import plugins
from mergesearch.errors import ForeignExitError, UserError
from mergesearch.files import atomic_path
from mergesearch.foreign import Interruption, Terminated, other_code


@pytest.mark.parametrize("code", [0, 1, None, "bye"])
def test_an_exit_is_an_error_that_says_whose(code: object) -> None:
    said = r"task 'x': sys\.exit\(.*\) was called in .*test_foreign\.py, line"
    with pytest.raises(ForeignExitError, match=said), other_code("task 'x'"):
        sys.exit(code)  # type: ignore[arg-type]


def test_what_is_no_exception_is_an_error_too() -> None:
    with pytest.raises(ForeignExitError, match="task 'x': CancelledError: "), other_code("task 'x'"):
        raise asyncio.CancelledError


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, Terminated, Interruption])
def test_what_passes(kind: type[BaseException]) -> None:
    with pytest.raises(kind), other_code("task 'x'"):
        raise kind


@pytest.mark.parametrize("content", ["import sys; sys.exit(0)", "raise SystemExit", "exit()"])
def test_a_file_that_exits_while_it_is_imported(tmp_path: Path, content: str) -> None:
    file = tmp_path / "exits.py"
    file.write_text(content)
    with pytest.raises(UserError, match=r"exits\.py: .*sys\.exit\(.*\) was called"):
        plugins.load(f"{file}:judge")


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("fails", [False, True])
def test_a_forked_child_does_not_come_back(fails: bool) -> None:
    read, write = os.pipe()
    try:
        with other_code("task 'x'"):
            child = os.fork()
            if child == 0 and fails:
                raise ValueError("only in the child")
    finally:
        os.write(write, b"here ")
    _, status = os.waitpid(child, 0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        assert pipe.read() == b"here ", "the child comes back, too"
    assert os.waitstatus_to_exitcode(status) == int(fails)


@pytest.mark.parametrize("status", [0, 3])
def test_a_forked_child_ends_with_its_own_status(capfd: pytest.CaptureFixture[str], status: int) -> None:
    child = -1
    with other_code("task 'x'"):
        child = os.fork()
        if child == 0:
            sys.exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == status
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("fails", [False, True])
def test_the_current_folder_is_what_it_was(tmp_path: Path, fails: bool) -> None:
    before = Path.cwd()
    try:
        with other_code("task 'x'"):
            os.chdir(tmp_path)
            if fails:
                raise ValueError
    except ValueError:
        assert fails
    assert Path.cwd() == before


def test_temporary_names_do_not_depend_on_the_process(tmp_path: Path) -> None:
    target = tmp_path / "model"
    with atomic_path(target) as one, atomic_path(target) as two:
        assert one != two
        assert str(os.getpid()) not in one.name.split(".")
        for path in (one, two):
            path.write_text(path.name)
    assert target.read_text() == one.name
