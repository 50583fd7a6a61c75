"""Tells the trackers that a config names of a run: its config, each trial, and the verdict.

One process of a run tells, whichever begins first; it tells of the trials of all. What it has told is kept in the run's
folder, so that a resumed run goes on in the same run of each tracker, and nothing is told twice.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from math import isfinite
from typing import Any

from filelock import Timeout
from optuna.trial import FrozenTrial, TrialState

from mergesearch.errors import UserError, in_words
from mergesearch.foreign import other_code
from mergesearch.search.optimize import trackers
from mergesearch.search.optimize.callbacks import Ending, RunView, Watcher
from mergesearch.search.optimize.trackers import TrackedRun, Tracker, Values
from mergesearch.search.study import trials as t
from mergesearch.search.study.run_folder import RunFolder

FILE, LOCK = "track.json", "track.lock"
REMEDY = "delete it, and the run begins anew in its trackers"


@dataclass
class Told:
    """What a tracker knows.

    Attributes:
        id: by which it knows the run.
        trials: the numbers of the trials that it was told of, in that order.
        concluded: how many trials the verdict had that it was told of; 0 for none.
    """

    id: str
    trials: list[int] = field(default_factory=list)
    concluded: int = 0


@contextmanager
def tracked(folder: RunFolder, names: Sequence[str], config: Mapping[str, Any], watcher: Watcher) -> Iterator[Watcher]:
    """A watcher that also tells the trackers of these names.

    Raises UserError where one is not installed, and, before the first trial, where one cannot begin. One that fails
    later is left out, with a warning.
    """
    trackers.check_installed(names)
    if not names:
        yield watcher
        return
    try:
        held = folder.claim(LOCK)
    except Timeout:
        watcher.stage("another worker tells the trackers")
        yield watcher
        return
    with held:
        tracking = _Tracking(folder, names, config, watcher)
        with tracking.closing():
            yield replace(watcher, begun=tracking.begun, trial=tracking.trial, concluded=tracking.concluded)


class _Channel:
    """A run in one tracker, and what the tracker knows of it."""

    def __init__(self, tracker: Tracker, told: Told) -> None:
        self._told, self._known = told, set(told.trials)
        self._best: FrozenTrial | None = None
        self.tracker = tracker

    def tell_trials(self, finished: Sequence[FrozenTrial]) -> None:
        """Tells of the trials that are new."""
        if self._best is None:
            self._best = _best([trial for trial in finished if trial.number in self._known])
        for trial in finished:
            if trial.number not in self._known:
                self._best = _best([*([self._best] if self._best else []), trial])
                self.tracker.trial(len(self._told.trials), _values(trial, self._best))
                self._known.add(trial.number)
                self._told.trials.append(trial.number)

    def tell_ending(self, ending: Ending) -> None:
        """Tells of the verdict, once."""
        if self._told.concluded < ending.trials:
            self.tracker.concluded(ending.values, ending.files)
            self._told.concluded = ending.trials


class _Tracking:
    """The trackers of a run that this process tells."""

    def __init__(self, folder: RunFolder, names: Sequence[str], config: Mapping[str, Any], watcher: Watcher) -> None:
        self._folder, self._names, self._watcher = folder, names, watcher
        self._run = TrackedRun(folder.path.name, folder.path.absolute(), config)
        self._told = folder.read_json(FILE, dict[str, Told], REMEDY) or {}
        self._channels: dict[str, _Channel] = {}
        self._view: RunView | None = None

    def begun(self, view: RunView) -> None:
        """Begins, or goes on, in each tracker that has something to be told."""
        self._view, finished = view, {trial.number for trial in t.finished(view.study)}
        for name in dict.fromkeys(self._names):
            before = self._told.get(name)
            if before is None or len(finished) < view.trials or before.concluded < len(finished):
                self._channels[name] = self._begun(name, before, finished)
        self._tell_trials(view)
        self._watcher.begun(view)

    def _begun(self, name: str, before: Told | None, finished: Collection[int]) -> _Channel:
        try:
            with other_code(f"track: {name}"):
                tracker = trackers.begin(name, self._run, before.id if before else None)
        except Exception as error:
            raise UserError(f"track: {name} cannot begin: {in_words(error)}") from error
        told = self._told.setdefault(name, Told(tracker.id))
        told.id = tracker.id
        told.trials = [number for number in told.trials if number in finished]
        return _Channel(tracker, told)

    def trial(self, view: RunView, trial: FrozenTrial) -> None:
        """Tells of this trial, and of those that other workers finished."""
        self._tell_trials(view)
        self._watcher.trial(view, trial)

    def concluded(self, ending: Ending) -> None:
        """Tells of the verdict."""
        if self._view is not None:
            self._tell_trials(self._view)
        self._tell(lambda channel: channel.tell_ending(ending))
        self._watcher.concluded(ending)

    def _tell_trials(self, view: RunView) -> None:
        finished = t.finished(view.study)
        self._tell(lambda channel: channel.tell_trials(finished))

    def _tell(self, act: Callable[[_Channel], None]) -> None:
        """Tells each tracker. One that fails is told no more: the search goes on without it."""
        for name, channel in list(self._channels.items()):
            try:
                with other_code(f"track: {name}"):
                    act(channel)
            except Exception as error:
                del self._channels[name]
                self._watcher.stage(f"warning: track: {name} has failed, and is told no more: {in_words(error)}")
                with suppress(Exception), other_code(f"track: {name}"):
                    channel.tracker.close(failed=True)
        if self._told:
            content = {name: asdict(told) for name, told in self._told.items()}
            self._folder.write_json(FILE, content, durable=False)

    @contextmanager
    def closing(self) -> Iterator[None]:
        """Closes the trackers at the end of the context."""
        failed = True
        try:
            yield
            failed = False
        finally:
            self._tell(lambda channel: channel.tracker.close(failed))


def _best(trials: Sequence[FrozenTrial]) -> FrozenTrial | None:
    """The best of the trials that can win the run."""
    helpers = (t.STEP, t.SWEEP, t.RECOVERED)
    able = [each for each in trials if each.state == TrialState.COMPLETE and t.kind_of(each) not in helpers]
    return t.best(able) if able else None


def _values(trial: FrozenTrial, best: FrozenTrial | None) -> Values:
    """What is told of a trial."""
    params = {f"param/{name}": value for name, value in trial.params.items()}
    tasks = {f"task/{name}": value for name, value in trial.user_attrs.get(t.VALUES, {}).items()}
    values = {
        "trial": trial.number,
        "score": t.score_of(trial),
        "best": t.score_of(best) if best else None,
        "items": t.items_of(trial),
        "stopped": trial.state == TrialState.PRUNED,
        "failed": trial.state == TrialState.FAIL,
        **tasks,
        **params,
        "name": t.label_of(trial),
        "kind": t.kind_of(trial),
    }
    return {name: known for name, value in values.items() if (known := _known(value)) is not None}


def _known(value: Any) -> float | str | None:
    """A number or a text; None for what is no finite number."""
    if isinstance(value, bool | int | float):
        return float(value) if isfinite(value) else None
    return None if value is None else str(value)
