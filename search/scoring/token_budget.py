"""The token budget of a run: how many tokens are scored at once, settled once and kept in the run's folder.

Batch composition changes the last bits of scores, so a resumed run and every other worker use the recorded budget.
"""

from collections.abc import Callable

from pydantic import Field

from mergesearch.evaluators import Budget, default_tokens
from mergesearch.parsing import Strict
from mergesearch.say import Say
from mergesearch.search.config.evaluate import Evaluate
from mergesearch.search.study.run_folder import RunFolder

FILE = "batches.json"
REMEDY = (
    'bring it back from a copy, or write {"tokens": N} into it, with the number that the run last told; without one, '
    "delete it: the run goes on with evaluate.batch_tokens, which may change the last digits of scores"
)


class Recorded(Strict):
    """The content of the file."""

    tokens: int = Field(ge=1)


class RunBudget:
    """The ``budget`` that the run's folder records; else the config's; else the device's default, untried on a GPU.

    A budget that had to be halved for lack of memory is recorded, and the user is told.
    """

    def __init__(self, folder: RunFolder, evaluate: Evaluate, device: str, say: Say) -> None:
        self._folder = folder
        self._say = say
        recorded = read_tokens(folder)
        self.budget = new_budget(evaluate, device, self._halved)
        if recorded is not None:
            self.budget.tokens, self.budget.tried = recorded, True

    def follow(self) -> None:
        """Takes over a smaller budget that another worker recorded, and records this one where it is the smaller."""
        recorded = read_tokens(self._folder)
        self.budget.tried = True
        if recorded is not None and recorded < self.budget.tokens:
            self.budget.tokens = recorded
        elif recorded != self.budget.tokens:
            self._folder.write_json(FILE, {"tokens": self.budget.tokens})

    def _halved(self, budget: Budget) -> None:
        self._say(f"out of memory: from now on all workers of this run score {budget.tokens} tokens at once")
        self._folder.write_json(FILE, {"tokens": budget.tokens})


def read_tokens(folder: RunFolder) -> int | None:
    """The budget that a run's folder records; None for a new run. Raises DamagedFileError where its file is damaged."""
    recorded = folder.read_json(FILE, Recorded, REMEDY)
    return recorded.tokens if recorded else None


def new_budget(evaluate: Evaluate, device: str, changed: Callable[[Budget], object] = lambda _: None) -> Budget:
    """The config's token budget, or the device's default, which a GPU has to try first."""
    return Budget(evaluate.batch_tokens or default_tokens(device), tried=device == "cpu", changed=changed)
