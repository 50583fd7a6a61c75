"""A crew of workers: where each works, how it is watched, started again and ended."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest

from mergesearch.errors import UserError
from mergesearch.merge_ops.checkpoint.sharing import SHARERS
from mergesearch.search.optimize import crew as module
from mergesearch.search.optimize.crew import THREADS, VISIBLE, Crew, Member, Post, ProcessMember, posts
from mergesearch.search.study.stop import Stopped

HERE = [Post("here", {})]
DIES = "import os, sys; sys.stderr.write('a line\\nno memory'); sys.stderr.flush(); os.kill(os.getpid(), 9)"
SLEEPS = (
    "from mergesearch.search.optimize.crew import follow_crew; import time; follow_crew(); print('x'); time.sleep(600)"
)


def crew(code: str, said: list[str], finished: Callable[[str], int] = lambda _: 0, count: int = 1) -> Crew:
    return Crew(partial(ProcessMember, ["-c", code]), HERE * count, finished, said.append)


def pid(member: Member) -> int:
    assert isinstance(member, ProcessMember)
    return member.process.pid


def is_alive(process: int) -> bool:
    """Whether a process works; one that nobody has waited for yet does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_workers_share_the_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(THREADS, raising=False)
    monkeypatch.setattr(module, "processors", lambda: 16)
    found = posts(3, "cpu")
    assert [post.variables for post in found] == [{SHARERS: "3", THREADS: "5"}] * 3
    assert found[0].place == "5 of 16 processors"
    assert posts(40, "cpu")[0].variables[THREADS] == "1"
    monkeypatch.setenv(THREADS, "7")
    assert posts(3, "cpu")[0].variables[THREADS] == "7"


@pytest.mark.parametrize(("visible", "names"), [("", "0 1 2"), ("4,5,6", "4 5 6"), ("4,5,6,7", "4 5 6")])
def test_workers_have_a_gpu_each(visible: str, names: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setenv(VISIBLE, visible)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert [post.variables[VISIBLE] for post in posts("auto", "auto")] == names.split()
    assert [post.variables[VISIBLE] for post in posts(4, "cuda")] == [*names.split(), names.split(maxsplit=1)[0]]
    assert all(VISIBLE not in post.variables for post in posts(2, "cpu"))


def test_without_gpus_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_gpus", list)
    assert len(posts("auto", "auto")) == 1


def test_a_crew_ends_with_its_workers(tmp_path: Path) -> None:
    said: list[str] = []
    code = f"import os; open({str(tmp_path)!r} + '/' + str(os.getpid()), 'w').write(os.environ['PLACE'])"
    looks: list[None] = []
    places = [Post(place, {"PLACE": place}) for place in ("one", "two")]
    Crew(partial(ProcessMember, ["-c", code]), places, lambda _: 0, said.append).run(lambda: looks.append(None))
    assert sorted(file.read_text() for file in tmp_path.iterdir()) == ["one", "two"]
    assert said == []
    assert looks


def test_bad_input_is_said_once() -> None:
    code = "import sys; sys.stderr.write('error: a\\nerror: b\\n'); sys.exit(2)"
    said: list[str] = []
    with pytest.raises(UserError) as caught:
        crew(code, said, count=2).run(lambda: None)
    assert [*caught.value.problems] == ["a", "b"]
    assert said == []


def test_a_worker_that_dies_is_started_again_three_times_in_a_row() -> None:
    said: list[str] = []
    with pytest.raises(UserError, match="every worker died"):
        crew(DIES, said).run(lambda: None)
    assert said[:3] == ["worker 1 (here) died of SIGKILL: no memory; it is started again"] * 3
    assert said[3:] == [
        "worker 1 (here) died of SIGKILL: no memory; it is left, because it died 4 times before it had finished a trial"
    ]


def test_a_worker_that_got_further_is_started_again_and_again() -> None:
    said: list[str] = []
    trials = iter([1, 0, 0, 1, 0, 0, 0])
    with pytest.raises(UserError, match="every worker died"):
        crew(DIES, said, lambda _: next(trials)).run(lambda: None)
    assert len(said) == 7
    assert said[-1].endswith("it died 4 times before it had finished a trial")


def test_the_others_go_on_without_a_worker(tmp_path: Path) -> None:
    said: list[str] = []
    code = f"import os; 'DIES' in os.environ and os._exit(7); open({str(tmp_path / 'done')!r}, 'w')"
    Crew(partial(ProcessMember, ["-c", code]), [Post("a", {"DIES": "1"}), Post("b", {})], lambda _: 0, said.append).run(
        lambda: None
    )
    assert (tmp_path / "done").exists()
    assert said[0] == "worker 1 (a) died with exit code 7; it is started again"


@pytest.mark.parametrize("code", [130, 143])
def test_workers_that_were_told_to_end_are_not_started_again(code: int) -> None:
    said: list[str] = []
    with pytest.raises(Stopped):
        crew(f"import sys; sys.exit({code})", said, count=2).run(lambda: None)
    assert said == []


def test_an_interrupt_ends_all_workers() -> None:
    said: list[str] = []
    found = crew("import time; time.sleep(600)", said, count=2)
    processes: list[int] = []

    def look() -> None:
        processes[:] = [pid(place.member) for place in found._places]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        found.run(look)
    assert len(processes) == 2
    assert not any(map(is_alive, processes))


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="reads the table of processes from /proc")
def test_workers_end_with_their_crew(tmp_path: Path) -> None:
    file = tmp_path / "workers"
    code = (
        "import sys; from functools import partial\n"
        "from mergesearch.search.optimize.crew import Crew, Post, ProcessMember\n"
        f"found = Crew(partial(ProcessMember, ['-c', {SLEEPS!r}]), [Post('here', {{}})] * 2, lambda _: 0, print)\n"
        f"found.run(lambda: open({str(file)!r}, 'w').write(' '.join(str(p.member.process.pid) for p in found._places)))"
    )
    parent = subprocess.Popen([sys.executable, "-c", code])
    workers = _eventually(lambda: file.exists() and file.read_text().split())
    assert len(workers) == 2
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    _eventually(lambda: not any(is_alive(int(worker)) for worker in workers))


def _eventually(look: Callable[[], object], seconds: float = 60.0) -> Sequence[str]:
    until = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < until
        time.sleep(0.05)
    return found if isinstance(found, list) else [str(os.getpid())]
