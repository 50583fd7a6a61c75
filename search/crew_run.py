"""A run with several workers of this machine, each a process of its own; see ``Crew``."""

import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from mergesearch.parsing import dump_yaml
from mergesearch.say import Say
from mergesearch.search.config import Config
from mergesearch.search.optimize.crew import Crew, Post, ProcessMember, posts


def crew_of(config: Config) -> list[Post]:
    """The places of a run's workers on this machine, of which there is at least one; see ``posts``."""
    return [Post("this process", {})] if config.workers == 1 else posts(config.workers, config.device)


def run_crew(  # noqa: PLR0913, PLR0917 - a run, and who is told of it
    config: Config, called: str, results: Path, crew: Sequence[Post], say: Say, look: Callable[[], None]
) -> None:
    """Runs a config with these workers, or resumes the run of its name; see ``run`` for what it leaves.

    ``called`` is what messages call the config; ``say`` and ``look``: see ``Crew``. Raises UserError as ``run`` does,
    and where every worker died.
    """
    folder = results / config.output.name
    with tempfile.TemporaryDirectory() as temporary:
        file = Path(temporary) / "config.yml"
        file.write_text(dump_yaml(config.dump()), encoding="utf-8")
        command = ["-m", "mergesearch", "run", str(file), "--results", str(results), "--member", called]
        start, storage = partial(ProcessMember, command), config.search.storage
        Crew(start, crew, lambda worker: finished_by(folder, storage, worker), say).run(look)


def finished_by(folder: Path, storage: str | None, worker: str) -> int:
    """How many trials the worker whose name begins like this has finished."""
    from mergesearch.search.study import trials as t
    from mergesearch.search.study.run_folder import RunFolder

    leases = (trial.user_attrs.get(t.LEASE, {}) for trial in t.finished(RunFolder(folder).open_study(storage)))
    return sum(str(lease.get("worker", "")).startswith(worker) for lease in leases)
