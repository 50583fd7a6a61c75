"""What a run tells while it goes, and what a listener may ask of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from optuna.study import Study
from optuna.trial import FrozenTrial

from mergesearch.say import Say, silent
from mergesearch.search.candidates.plan import SearchPlan
from mergesearch.search.problem.task_set import TaskSet
from mergesearch.search.scoring.scorer import Scorer
from mergesearch.search.study.progress import Doing
from mergesearch.search.study.run_store import RunStore


@dataclass(frozen=True)
class RunView:
    """A run under way: what it will do, its trials so far, and where checkpoints are kept (``memory``)."""

    plan: SearchPlan
    store: RunStore
    scorer: Scorer
    memory: str

    @property
    def tasks(self) -> TaskSet:
        return self.plan.problem.tasks

    @property
    def trials(self) -> int:
        """How many trials it will have, with the recovered winner."""
        return self.plan.trials + (self.plan.problem.recovery is not None)

    @property
    def seed(self) -> int:
        return self.plan.problem.config.search.seed

    @property
    def races(self) -> bool:
        """Whether the config lets candidates race."""
        return bool(self.plan.problem.config.search.racing)

    @property
    def study(self) -> Study:
        return self.store.study

    @property
    def path(self) -> Path:
        """The run's folder."""
        return self.store.folder.path


@dataclass(frozen=True)
class Ending:
    """The end of a run after so many ``trials``: the verdict's numbers and texts by name, and files that tell of it."""

    values: Mapping[str, float | str]
    files: Sequence[Path]
    trials: int


@dataclass(frozen=True)
class Watcher:
    """Listens to a run: ``stage`` gets a line of text, ``begun`` the run, ``trial`` each finished trial.

    ``detail`` gets a line that few people want to see.

    ``concluded`` gets the end, also where an earlier process or another worker came to it.

    ``doing`` gets, about every second and from another thread, what this process does and what the other workers do.
    """

    stage: Say = silent
    detail: Say = silent
    begun: Callable[[RunView], None] = lambda _: None
    trial: Callable[[RunView, FrozenTrial], None] = lambda *_: None
    concluded: Callable[[Ending], None] = lambda _: None
    doing: Callable[[Doing, Sequence[Doing]], None] = lambda *_: None


QUIET = Watcher()
