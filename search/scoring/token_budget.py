"""How many tokens a run's candidates are scored with at once: settled once, kept in the run's folder.

Batches change the last bits of scores. So a resumed run, and every other worker, goes by what was found first.
"""

from collections.abc import Callable

from mergesearch.evaluators import Budget, default_tokens
from mergesearch.merge_ops.engine.engine import Say
from mergesearch.search.config import Evaluate
from mergesearch.search.study.run_folder import RunFolder

FILE = "batches.json"


class Batches:
    """The ``budget`` of a run, as its folder has it; else the config's, or the device's, not tried yet on a GPU.

    Whenever memory does not suffice, what does is written to the folder and said.
    """

    def __init__(self, folder: RunFolder, evaluate: Evaluate, device: str, say: Say) -> None:
        self._folder = folder
        self._say = say
        known = self._kept()
        self.budget = new_budget(evaluate, device, self._halved)
        if known is not None:
            self.budget.tokens, self.budget.tried = known, True

    def _kept(self) -> int | None:
        kept = self._folder.read_json(FILE)
        return None if kept is None else int(kept["tokens"])

    def follow(self) -> None:
        """Takes over what another worker found, and keeps what was found here."""
        known = self._kept()
        self.budget.tried = True
        if known is not None and known < self.budget.tokens:
            self.budget.tokens = known
        elif known != self.budget.tokens:
            self._folder.write_json(FILE, {"tokens": self.budget.tokens})

    def _halved(self, budget: Budget) -> None:
        self._say(f"out of memory: {budget.tokens} tokens at once from now on, in this run and whoever goes on with it")
        self._folder.write_json(FILE, {"tokens": budget.tokens})


def new_budget(evaluate: Evaluate, device: str, changed: Callable[[Budget], object] = lambda _: None) -> Budget:
    """What the config says, or else what is usual on the device; on a GPU it has to be tried."""
    return Budget(evaluate.batch_tokens or default_tokens(device), tried=device == "cpu", changed=changed)
