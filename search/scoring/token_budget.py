"""The token budget of a run: how many tokens are scored at once, settled once and kept in the run's folder.

Batch composition changes the last bits of scores, so a resumed run and every other worker use the recorded budget.
"""

from collections.abc import Callable

from mergesearch.evaluators import Budget, default_tokens
from mergesearch.merge_ops.engine.options import Say
from mergesearch.search.config.evaluate import Evaluate
from mergesearch.search.study.run_folder import RunFolder

FILE = "batches.json"


class RunBudget:
    """The ``budget`` that the run's folder records; else the config's; else the device's default, untried on a GPU.

    A budget that had to be halved for lack of memory is recorded, and the user is told.
    """

    def __init__(self, folder: RunFolder, evaluate: Evaluate, device: str, say: Say) -> None:
        self._folder = folder
        self._say = say
        recorded = self._recorded()
        self.budget = new_budget(evaluate, device, self._halved)
        if recorded is not None:
            self.budget.tokens, self.budget.tried = recorded, True

    def _recorded(self) -> int | None:
        content = self._folder.read_json(FILE)
        return None if content is None else int(content["tokens"])

    def follow(self) -> None:
        """Takes over a smaller budget that another worker recorded, and records this one where it is the smaller."""
        recorded = self._recorded()
        self.budget.tried = True
        if recorded is not None and recorded < self.budget.tokens:
            self.budget.tokens = recorded
        elif recorded != self.budget.tokens:
            self._folder.write_json(FILE, {"tokens": self.budget.tokens})

    def _halved(self, budget: Budget) -> None:
        self._say(f"out of memory: from now on all workers of this run score {budget.tokens} tokens at once")
        self._folder.write_json(FILE, {"tokens": budget.tokens})


def new_budget(evaluate: Evaluate, device: str, changed: Callable[[Budget], object] = lambda _: None) -> Budget:
    """The config's token budget, or the device's default, which a GPU has to try first."""
    return Budget(evaluate.batch_tokens or default_tokens(device), tried=device == "cpu", changed=changed)
