"""What a run works with: what is known before it, what it remembers, and the live model."""

from functools import cached_property
from typing import Any

from optuna.study import Study

from mergesearch.evaluators import LoadedModel
from mergesearch.merge_ops.engine.engine import Engine, Say, find_device, silent
from mergesearch.search.problem.problem import Job, live_model
from mergesearch.search.scoring.token_budget import Batches
from mergesearch.search.study.run_folder import RunFolder


class Bench:
    """A job with its live model. ``study`` is all that a run remembers, with the per-item scores in ``folder``.

    ``say`` is given lines for the user.
    """

    def __init__(self, job: Job, folder: RunFolder, study: Study, engine: Engine, say: Say = silent) -> None:
        self.job = job
        self.folder = folder
        self.study = study
        self.engine = engine
        self.say = say
        self._scored: tuple[Any, Any] = (None, None)

    @property
    def subject(self) -> LoadedModel:
        """The live model as evaluators take it; a quantised double is another one at each depth."""
        engine = self.engine
        if self._scored[0] is not engine.views:
            self._scored = engine.views, live_model(engine.model, self.job.config.evaluate, lambda: engine.built)
        return LoadedModel(self._scored[1], engine.tokenizer, engine.save, self.batches.budget)

    @cached_property
    def batches(self) -> Batches:
        """How much is scored at once."""
        evaluate, device = self.job.config.evaluate, find_device(self.job.config.device)
        return Batches(self.folder, evaluate, device, self.say)
