"""What a run tells while it goes, and what a listener may ask of it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from optuna.study import Study
from optuna.trial import FrozenTrial

from mergesearch.say import Say, silent
from mergesearch.search.problem.task_set import TaskSet
from mergesearch.search.scoring.scorer import Scorer
from mergesearch.search.study.run_store import RunStore


@dataclass(frozen=True)
class RunView:
    """A run under way: its trials so far, how many it will have, and where checkpoints are kept (``memory``)."""

    tasks: TaskSet
    store: RunStore
    scorer: Scorer
    trials: int
    races: bool
    seed: int
    memory: str

    @property
    def study(self) -> Study:
        return self.store.study

    @property
    def path(self) -> Path:
        """The run's folder."""
        return self.store.folder.path


@dataclass(frozen=True)
class Watcher:
    """Listens to a run: ``stage`` gets a line of text, ``begun`` the run, ``trial`` each finished trial."""

    stage: Say = silent
    begun: Callable[[RunView], None] = lambda _: None
    trial: Callable[[RunView, FrozenTrial], None] = lambda *_: None


QUIET = Watcher()
