"""What a run's workers do now: each tells the others, and its own watcher, about every second."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace

from optuna.trial import FrozenTrial

from mergesearch.beside import beside
from mergesearch.search.candidates.plan import SearchPlan
from mergesearch.search.optimize.callbacks import RunView, Watcher
from mergesearch.search.optimize.time_left import LAST, TimeLeft
from mergesearch.search.study import trials as t
from mergesearch.search.study.progress import FILE, NOW, Doing, Progress
from mergesearch.search.study.run_folder import RunFolder
from mergesearch.search.study.stopping import trials_an_hour
from mergesearch.steps import Meter, metered

SECONDS = 1.0
"""From one look at what is being done to the next."""
WRITTEN = 3
"""At every so many looks, a worker writes what it does, and reads what the others do."""


@contextmanager
def underway(folder: RunFolder, plan: SearchPlan, watcher: Watcher) -> Iterator[Watcher]:
    """A watcher of a worker's part in a run, by which the other workers and ``mergesearch status`` know how far it is.

    It passes on what it is told to ``watcher``, and tells it what is being done meanwhile.
    """
    with metered() as meter:
        worker = _Worker(folder, meter, TimeLeft(plan), watcher)
        with worker.telling():
            yield replace(watcher, begun=worker.begun, trial=worker.trial)


class _Worker:
    """This process, which tells from a thread of its own what it does."""

    def __init__(self, folder: RunFolder, meter: Meter, left: TimeLeft, watcher: Watcher) -> None:
        self._folder, self._meter, self._left, self._watcher = folder, meter, left, watcher
        self._others: list[Doing] = []

    def begun(self, view: RunView) -> None:
        self._left.note(view)
        self._watcher.begun(view)

    def trial(self, view: RunView, trial: FrozenTrial) -> None:
        self._left.note(view)
        self._folder.write_json(FILE, asdict(_progress(view)), durable=False)
        self._watcher.trial(view, trial)

    @contextmanager
    def telling(self) -> Iterator[None]:
        try:
            with beside(self._tell):
                yield
        finally:
            with suppress(OSError):
                (self._folder.path / NOW / self._folder.worker).unlink(missing_ok=True)

    def _tell(self, is_over: threading.Event) -> None:
        looks = 0
        while not is_over.wait(SECONDS):
            now = self._now()
            if looks % WRITTEN == 0:
                with suppress(OSError):  # a run goes on where nobody is told
                    self._exchange(now)
            self._watcher.doing(now, self._others)
            looks += 1

    def _exchange(self, now: Doing) -> None:
        self._folder.write_json(f"{NOW}/{self._folder.worker}", asdict(now), durable=False)
        self._others = self._folder.others()

    def _now(self) -> Doing:
        steps, left = self._meter.steps, self._left
        now = Doing(
            self._folder.worker,
            ": ".join(step.what for step in steps),
            trials=left.trials,
            left=left.seconds(steps, 1 + len(self._others)),
            at_most=left.at_most,
            at=self._folder.workers.now(),
        )
        last = steps[-1] if steps else None
        return replace(now, done=last.done, of=last.of, unit=last.unit) if last and last.of else now


def _progress(view: RunView) -> Progress:
    study = view.study
    best, stopped = t.incumbent(study), len(t.stopped(study))
    name, value = (t.label_of(best), t.score_of(best)) if best else ("", None)
    rate = trials_an_hour(study, LAST)
    return Progress(len(t.finished(study)), view.trials, stopped, name, value, time.time(), rate)
