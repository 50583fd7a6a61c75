"""Points that take long to draw: outside of the run's lock, and ahead where several workers would else wait for them.

A trial begins, with its worker's lease, before its point is known. The point is drawn from what was known then. When it
is noted, under the lock, no other worker is at it: else it is drawn again.

Where drawing takes a worker more than ``BUSY`` of its time, workers ask for trials ahead: one draws a point in a thread
while its candidate is scored, and puts the trial aside for whoever next needs one. There are only as many such trials
as are likely to be needed while a point is drawn, because what is known grows. A run with one worker has none, and so
depends on no clock.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from math import ceil

from optuna.trial import Trial, TrialState

from mergesearch.beside import beside
from mergesearch.merge_ops.recipe.recipe import Recipe
from mergesearch.search.optimize.ask import TRIES, Draw
from mergesearch.search.samplers import Drawn, running_trial
from mergesearch.search.space.space import Space
from mergesearch.search.study import trials as t
from mergesearch.search.study.journal import noted_together
from mergesearch.search.study.leases import Leases
from mergesearch.search.study.run_store import RunStore

BUSY = 0.02
"""The part of a trial's time that a worker may wait for its point, without trials being asked for ahead."""
SPARE = 2.0
"""How many trials are ahead, over the mean number that is needed while a point is drawn."""
Lock = Callable[[], AbstractContextManager[None]]
Made = tuple[Recipe, str] | Exception
"""The recipe at a point and its text, or why there is none."""


class Drawing:
    """Draws the points of a worker's trials, and knows how long that takes beside scoring.

    ``fail`` ends a trial whose point cannot be drawn.
    """

    def __init__(self, space: Space, store: RunStore, leases: Leases, fail: Callable[[Trial, Exception], None]) -> None:
        self._space, self._store, self._leases, self._fail = space, store, leases, fail
        self._seconds, self._scoring = 0.0, 0.0

    def recipe(self, draw: Draw, lock: Lock | None = None, ahead: bool = False) -> Recipe | None:
        """The recipe at a new point, which is noted under the ``lock``, usually the run's.

        ``ahead``: the trial is put aside then. None where it failed, or is another worker's by now.
        """
        lock = lock or self._store.locked
        try:
            return self._recipe(draw, lock, ahead)
        except Exception as error:
            with lock():
                if self._leases.is_held(draw.trial):
                    self._fail(draw.trial, error)
            return None

    @contextmanager
    def beside(self, ahead: Draw | None) -> Iterator[None]:
        """Draws the point of a trial that is asked for ahead until the context ends, which waits for it."""

        def draw(_: threading.Event) -> None:
            assert ahead is not None
            with suppress(Exception):  # without a recipe the trial is lost, and is asked for again
                self.recipe(ahead, ahead=True)

        with beside(draw) if ahead else nullcontext():
            yield

    def _recipe(self, draw: Draw, lock: Lock, ahead: bool) -> Recipe | None:
        began = time.monotonic()
        for number, (kind, drawn) in enumerate(self._points(draw, ahead), 1):
            with lock():
                if not self._leases.is_held(draw.trial):
                    return None
                if number < TRIES and self._is_taken(draw.trial, drawn):
                    continue
                self._note(draw, kind, drawn, ahead)
            break
        self._seconds = time.monotonic() - began if draw.is_slow else self._seconds
        if isinstance(drawn.made, Exception):
            raise drawn.made
        return drawn.made[0]

    def take_aside(self) -> Trial | None:
        """A trial that was put aside, leased now; None where there is none. To be called under the run's lock."""
        study = self._store.study
        found = next((trial for trial in t.running(study) if self._leases.is_aside(trial)), None)
        if found is None:
            return None
        trial = running_trial(study, found)
        self._leases.take(trial)
        return trial

    @contextmanager
    def timed_scoring(self) -> Iterator[None]:
        """Takes the time of scoring a candidate."""
        began = time.monotonic()
        yield
        self._scoring = time.monotonic() - began

    @property
    def pays_ahead(self) -> bool:
        """Whether another trial is to be asked for ahead. To be called under the run's lock."""
        running = t.running(self._store.study)
        ahead = sum(map(t.is_ahead, running))
        others = len(running) - ahead - 1
        if not others or self._seconds <= BUSY * self._scoring or not self._scoring:
            return False
        return ahead < ceil(SPARE * (1 + others) * self._seconds / (self._seconds + self._scoring))

    def _points(self, draw: Draw, ahead: bool) -> Iterator[tuple[str, Drawn[Made]]]:
        points = draw.points(self._make)
        while True:
            if draw.is_slow:
                with self._leases.renewed(draw.trial, ahead):
                    found = next(points, None)
            else:
                found = next(points, None)
            if found is None:
                return
            yield found

    def _make(self, trial: Trial) -> Made:
        try:
            recipe = self._space.ask(trial)
            return recipe, recipe.to_yaml()
        except Exception as error:
            return error

    def _is_taken(self, own: Trial, drawn: Drawn[Made]) -> bool:
        """Whether another worker is at the same point."""
        running = self._store.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        others = (trial.params for trial in running if trial.number != own.number)
        return bool(drawn.point) and any(point == drawn.point for point in others)

    def _note(self, draw: Draw, kind: str, drawn: Drawn[Made], ahead: bool) -> None:
        with noted_together(self._store.study):
            if kind != draw.candidate.kind:
                draw.trial.set_user_attr(t.KIND, kind)
            drawn.note(draw.trial)
            if isinstance(drawn.made, Exception):
                return
            draw.trial.set_user_attr(t.RECIPE, drawn.made[1])
            if ahead:
                self._leases.put_aside(draw.trial)
