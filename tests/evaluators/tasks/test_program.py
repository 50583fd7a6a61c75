"""Programs of other people: what they print and start has bounds, and ends with them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mergesearch.evaluators.tasks import program
from mergesearch.evaluators.tasks.program import EndedProgram, ProgramTimeoutError, run_program
from mergesearch.evaluators.tasks.scratch import scratch_folder


def run(code: str, tmp_path: Path, timeout: float = 60) -> EndedProgram:
    return run_program([sys.executable, "-c", code], timeout, tmp_path / "scratch")


def until(happened: object) -> None:
    for _ in range(500):
        if happened():  # type: ignore[operator]
            return
        time.sleep(0.02)
    pytest.fail("did not happen within ten seconds")


def is_gone(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    return not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z"


def test_output_and_errors_come_whole(tmp_path: Path) -> None:
    code = "import sys; sys.stderr.write('e' * 50_000); sys.stdout.write('o' * 3_000_000 + 'end')"
    ended = run(code, tmp_path)
    assert (ended.status, len(ended.errors), len(ended.output)) == (0, 50_000, 3_000_003)


def test_endless_output_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "OUTPUT_BYTES", 1000)
    code = "import sys; [sys.stdout.write('x' * 1000) for _ in range(50_000)]; print('end')"
    ended = run(code, tmp_path)
    assert ended.output.endswith("xend\n")
    assert len(ended.output) <= 2000 + 2**16


def test_a_child_that_keeps_the_pipe_is_not_waited_for(tmp_path: Path) -> None:
    code = "import subprocess; child = subprocess.Popen(['sleep', '60']); print(child.pid)"
    ended = run(code, tmp_path, timeout=30)
    assert ended.status == 0
    until(lambda: is_gone(int(ended.output)))


def test_a_child_that_prints_for_ever_is_not_waited_for(tmp_path: Path) -> None:
    code = "import subprocess; child = subprocess.Popen(['yes']); import time; time.sleep(.3); print(child.pid)"
    assert run(code, tmp_path, timeout=30).status == 0


def test_a_program_that_closes_its_pipes_is_waited_for(tmp_path: Path) -> None:
    ended = run("import os, time; os.close(1); os.close(2); time.sleep(.5); os._exit(7)", tmp_path)
    assert ended.in_words == "ended with status 7"


def test_a_program_has_no_input(tmp_path: Path) -> None:
    assert run("import sys; print(repr(sys.stdin.read()))", tmp_path).output == "''\n"


def test_a_signal_is_said(tmp_path: Path) -> None:
    assert run("import os; os.kill(os.getpid(), 11)", tmp_path).in_words == "was ended by signal 11, segmentation fault"
    said = run("import os; os.kill(os.getpid(), 9)", tmp_path).in_words
    assert said == "was ended by signal 9, killed, perhaps for want of memory"


def test_output_that_is_not_utf_8(tmp_path: Path) -> None:
    assert run("import os; os.write(1, b'\\xff\\xfe{}')", tmp_path).output == "\ufffd\ufffd{}"


def test_too_long(tmp_path: Path) -> None:
    with pytest.raises(ProgramTimeoutError):
        run("import time; time.sleep(60)", tmp_path, timeout=0.3)


KILLED = """
import sys, time
from pathlib import Path
from mergesearch.evaluators.tasks.program import run_program
from mergesearch.evaluators.tasks.scratch import scratch_folder
here = Path(sys.argv[1])
with scratch_folder(here) as folder:
    (folder / "model").write_text("weights")
    (here / "saved").touch()
    if sys.argv[2] == "saving":
        time.sleep(60)
    run_program(["sh", "-c", f"sleep 60 & echo $! > {here}/child; echo $$ > {here}/program; wait"], 60, folder)
"""


def started(tmp_path: Path, stage: str) -> "subprocess.Popen[bytes]":
    environment = {key: value for key, value in os.environ.items() if key != "TMPDIR"}
    return subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path), stage], env=environment)


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_everything_ends_with_this_process(tmp_path: Path, end: signal.Signals) -> None:
    process = started(tmp_path, "running")
    files = [tmp_path / "child", tmp_path / "program"]
    until(lambda: all(file.exists() and file.read_text().strip() for file in files))
    process.send_signal(end)
    process.wait()
    for file in files:
        until(lambda file=file: is_gone(int(file.read_text())))
    until(lambda: sorted(file.name for file in tmp_path.iterdir()) == ["child", "program", "saved"])


def test_what_a_kill_left_is_removed_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TMPDIR", raising=False)
    process = started(tmp_path, "saving")
    until((tmp_path / "saved").exists)
    with scratch_folder(tmp_path) as own:
        left = [path for path in tmp_path.iterdir() if path.is_dir() and path != own]
        assert len(left) == 1, "the folder of a living process stays"
    process.kill()
    process.wait()
    with scratch_folder(tmp_path) as own:
        assert [path for path in tmp_path.iterdir() if path.is_dir()] == [own]
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_tmpdir_is_honoured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "elsewhere"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.setattr("tempfile.tempdir", None)
    with scratch_folder(tmp_path) as folder:
        assert folder.parent == tmp_path / "elsewhere"
