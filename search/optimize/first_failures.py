"""The failures of a session's first candidates: where all fail for one reason, the others would, too."""

import re

from optuna.trial import FrozenTrial, TrialState

from mergesearch.search.study import trials as t

FEWEST, MOST = 3, 12
"""After how many failures for one reason a run ends: ``FEWEST`` once the baselines are tried, ``MOST`` in any case."""


class FirstFailures:
    """Listens to the trials of a session until one of them does not fail, or fails for another reason."""

    def __init__(self) -> None:
        self._count = 0
        self._reason = ""
        self.are_alike = True
        """Whether all of them failed for one reason."""

    def note(self, trial: FrozenTrial) -> None:
        """Notes a finished trial."""
        reason = str(trial.user_attrs.get(t.REASON, ""))
        self._reason = self._reason or reason
        self._count += 1
        self.are_alike &= trial.state == TrialState.FAIL and _kind(reason) == _kind(self._reason)

    def why_hopeless(self, baselines_left: bool) -> str | None:
        """Why the run should end, for the user; None while it should not."""
        if not self.are_alike or self._count < (MOST if baselines_left else FEWEST):
            return None
        return (
            f"the first {self._count} candidates all failed for one reason, so the run ends here: {self._reason}; "
            "the same command tries again"
        )


def _kind(reason: str) -> str:
    """The reason without what differs from candidate to candidate: numbers and addresses."""
    return re.sub(r"0x[0-9a-f]+|\d+(\.\d+)?(e[+-]?\d+)?", "#", reason, flags=re.IGNORECASE)
