"""The usual settings: for each method of the space, the point nearest to what people try first."""

from collections.abc import Sequence

from optuna.study import Study
from optuna.trial import FrozenTrial

from mergesearch.merge_ops.methods import Scalar
from mergesearch.search.candidates.source import Candidate, Done, Wait
from mergesearch.search.space.space import Space
from mergesearch.search.study import trials as t


def usual_settings(models: int) -> dict[str, dict[str, Scalar]]:
    """The parameters that the standard recipes are used with, for that many models, by method.

    Task arithmetic 0.4 and TIES (density 0.2, weight 1) are the TIES paper's for an unvalidated merge
    (arXiv:2306.01708, section 5); DARE-TIES with density 0.5 and weights that sum to one are mergekit's example.
    """
    share = 1 / models
    return {
        "linear": {"weight": share},
        "slerp": {"t": 0.5},
        "task_arithmetic": {"weight": 0.4},
        "ties": {"weight": 1.0, "density": 0.2},
        "dare_ties": {"weight": share, "density": 0.5},
        "dare_linear": {"weight": share, "density": 0.5},
    }


class UsualSettings:
    """One candidate for each method of the space. It depends on no score.

    ``reserved`` is the number of baselines, for which enough of the ``trials`` must be left; None where nothing may
    overtake the sources before it.
    """

    may_overtake = True

    def __init__(self, space: Space, trials: int, reserved: int | None) -> None:
        self._space = space
        self._trials = trials
        self._reserved = reserved

    def next(self, study: Study) -> Candidate | Wait | Done:
        """See ``Source.next``."""
        scored = t.names_of_kind(study, t.START)
        method = next((method for method in self._space.methods if method.name not in scored), None)
        if method is None:
            return Done("every method's usual settings are scored")
        if t.names_in_work(study) and not self._leaves_room(t.begun(study)):
            return Wait()
        usual = usual_settings(len(self._space.models)).get(method.name, {})
        return Candidate(t.START, method.name, point=self._space.start(method, usual))

    def _leaves_room(self, begun: Sequence[FrozenTrial]) -> bool:
        """Whether the trials suffice for the baselines that are still to be scored."""
        if self._reserved is None:
            return False
        missing = self._reserved - sum(t.kind_of(trial) == t.BASELINE for trial in begun)
        return len(begun) + missing < self._trials
