"""The trials of a study: what their attributes mean, which of them count, and which is best."""

from bisect import insort
from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache
from math import inf
from typing import Any
from weakref import WeakKeyDictionary

from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from mergesearch.merge_ops.recipe.recipe import Recipe
from mergesearch.parsing import parse_yaml

CONFIG = "config"
"""The study's user attribute with the resolved config, which the run's folder has as a file."""

SIGNAL = "signal"
"""The study's user attribute with how each task is read, in words; see ``Signal``."""

# Names of a trial's user attributes.
KIND = "kind"
"""The kind of the candidate, one of the kinds below."""
NAME = "name"
"""The candidate's name, for kinds that have one."""
RECIPE = "recipe"
"""The candidate's recipe, as YAML."""
PHENOTYPE = "phenotype"
"""The digest of the recipe's effect; candidates with the same digest are the same model."""
SAME_AS = "same_as"
"""The label of an earlier trial with the same model, whose scores were taken."""
VALUES = "values"
"""The value of each task, by its name."""
SECONDS = "seconds"
"""The seconds of each step of the trial, by its name."""
REASON = "reason"
"""Why the trial failed."""
RETRY_OF = "retry_of"
"""The number of the interrupted trial whose point this trial repeats."""
ITEMS = "items"
"""How many search items were scored for the trial."""
AGAINST = "against"
"""The number of the incumbent against which racing stopped the trial."""
STANDARD_ERROR = "standard_error"
"""That of the estimate of a trial that racing stopped; on the copies that samplers see, of the value of any trial.

See ``Signal.told``.
"""
SLOT = "slot"
"""The position in the sampler's sequence from which the point came."""
LEASE = "lease"
"""Which worker scores the trial, and until when the others leave the trial to it."""
AHEAD = "ahead"
"""The key of a lease on a trial that was asked for ahead, and that nobody scores yet."""
SCORE = "score"
"""With several objectives: their sum by the user's weights."""

# Kinds of candidates.
BASELINE = "baseline"
"""A recipe that the search must beat."""
GRADIENT = "gradient"
"""A point that a descent by gradients reached."""
SWEEP = "sweep"
"""A point with one value for all models, on the way to the best one, which is a baseline; it cannot win the run."""
LEVEL = "level"
"""A point of a coarser space."""
SAMPLED = "sampled"
"""A point that the sampler chose."""
CENTRE = "centre"
"""The centre of the sampler's distribution."""
SOUP = "soup"
"""A soup that the config asks for."""
RECOVERED = "recovered"
"""The winner after recovery, which follows the search: neither a contender nor told to samplers."""
STEP = "step"
"""A soup on the way to another one; it cannot win the run."""
NAMED = (BASELINE, SOUP, STEP, RECOVERED)
"""The kinds whose candidates have names and are scored on all search items."""

INTERRUPTED = "interrupted"
"""The REASON of a trial whose process was killed; another trial takes over its point."""


Position = tuple[int, ...]
"""A position in a sampler's sequence: its number, or for CMA-ES (restart, generation, index)."""


class History:
    """The trials of a study as this process has seen them, so that a trial costs the same in a run of any length.

    A finished trial never changes: only the others are looked at again. All lists are by number, and nobody may change
    them. ``finished`` has the complete, pruned and failed trials, without the interrupted ones; ``kinds``,
    ``phenotypes`` and ``slots`` have them by kind, by phenotype, and by label and position of a sampler's sequence.
    ``names`` has the names of all that ended, by kind.
    """

    def __init__(self) -> None:
        self.finished: list[FrozenTrial] = []
        self.completed: list[FrozenTrial] = []
        self.contenders: list[FrozenTrial] = []
        self.stopped: list[FrozenTrial] = []
        self.best: FrozenTrial | None = None
        self.kinds: dict[str, list[FrozenTrial]] = defaultdict(list)
        self.phenotypes: dict[str, list[FrozenTrial]] = defaultdict(list)
        self.slots: dict[str, dict[Position, FrozenTrial]] = defaultdict(dict)
        self.names: dict[str, set[object]] = defaultdict(set)
        self.unfinished: dict[int, FrozenTrial] = {}
        self._count = 0

    def update(self, trials: Sequence[FrozenTrial]) -> None:
        """Takes over what has changed among the study's ``trials``."""
        for number in (*self.unfinished, *range(self._count, len(trials))):
            self.unfinished[number] = trials[number]
            if trials[number].state.is_finished():
                self._add(self.unfinished.pop(number))
        self._count = len(trials)

    def _add(self, trial: FrozenTrial) -> None:
        kind = kind_of(trial)
        self.names[kind].add(trial.user_attrs.get(NAME))
        if is_interrupted(trial):
            return
        lists = [self.finished, self.kinds[kind]]
        if PHENOTYPE in trial.user_attrs:
            lists.append(self.phenotypes[trial.user_attrs[PHENOTYPE]])
        if trial.state == TrialState.PRUNED:
            lists.append(self.stopped)
        if trial.state == TrialState.COMPLETE and kind != RECOVERED:
            lists.append(self.completed)
            if kind not in (STEP, SWEEP):
                lists.append(self.contenders)
                self.best = trial if self.best is None else min(self.best, trial, key=rank)
        for each in lists:
            insort(each, trial, key=_number)
        if slot := trial.user_attrs.get(SLOT):
            self.slots[slot["of"]][tuple(slot["place"])] = trial


def _number(trial: FrozenTrial) -> int:
    return trial.number


_HISTORIES: WeakKeyDictionary[Study, History] = WeakKeyDictionary()


def history_of(study: Study) -> History:
    """The history of a study up to now. That of a view, which shows other trials, is made anew."""
    history = _HISTORIES.setdefault(study, History()) if type(study) is Study else History()
    history.update(study.get_trials(deepcopy=False))
    return history


def finished(study: Study) -> list[FrozenTrial]:
    """The complete, pruned and failed trials, without the interrupted ones."""
    return list(history_of(study).finished)


def begun(study: Study) -> list[FrozenTrial]:
    """The finished and the running trials, without the interrupted ones."""
    trials = finished(study)
    for trial in running(study):
        insort(trials, trial, key=_number)
    return trials


def running(study: Study) -> list[FrozenTrial]:
    """The running trials of all workers."""
    unfinished = history_of(study).unfinished.values()
    return [trial for trial in unfinished if trial.state == TrialState.RUNNING]


def is_ahead(trial: FrozenTrial) -> bool:
    """Whether a running trial was asked for ahead, and nobody scores it yet."""
    return AHEAD in trial.user_attrs.get(LEASE, {})


def is_interrupted(trial: FrozenTrial) -> bool:
    """Whether the process of the trial was killed."""
    return bool(trial.user_attrs.get(REASON) == INTERRUPTED)


def completed(study: Study) -> list[FrozenTrial]:
    """The trials that were scored on all search items."""
    return list(history_of(study).completed)


def contenders(study: Study) -> list[FrozenTrial]:
    """The completed trials that can win the run."""
    return list(history_of(study).contenders)


def incumbent(study: Study) -> FrozenTrial | None:
    """The best of the contenders by ``rank``; None where there is none yet."""
    return history_of(study).best


def of_kind(study: Study, kind: str) -> list[FrozenTrial]:
    """The finished trials of a kind, without the interrupted ones."""
    return list(history_of(study).kinds[kind])


def begun_of_kind(study: Study, kind: str) -> list[FrozenTrial]:
    """The finished and the running trials of a kind, without the interrupted ones."""
    return [*history_of(study).kinds[kind], *(trial for trial in running(study) if kind_of(trial) == kind)]


def stopped(study: Study) -> list[FrozenTrial]:
    """The trials that racing stopped early; their values are estimates."""
    return list(history_of(study).stopped)


def score_of(trial: FrozenTrial) -> float:
    """The objective, or with several the sum by the user's weights; minus infinity for a trial that failed."""
    if SCORE in trial.user_attrs:
        return float(trial.user_attrs[SCORE])
    return trial.value if trial.value is not None else -inf


def violation(trial: FrozenTrial) -> float:
    """The sum of the amounts by which the trial breaks constraints; 0 where it satisfies all of them."""
    return sum(max(0.0, value) for value in trial.constraints.values())


def rank(trial: FrozenTrial) -> tuple[float, float, int]:
    """A sort key, best first: the smaller violation, then the higher score, then the earlier trial.

    The feasibility rules of Deb, An efficient constraint handling method for genetic algorithms (Computer Methods in
    Applied Mechanics and Engineering 186, 2000). The score decides between trials that satisfy all constraints.
    """
    return violation(trial), -score_of(trial), trial.number


def best(trials: Sequence[FrozenTrial]) -> FrozenTrial:
    """The first of the trials by ``rank``. Of equals, the earlier: simple baselines come before complex ones."""
    return min(trials, key=rank)


def kind_of(trial: FrozenTrial) -> str:
    """The kind of the trial's candidate."""
    return str(trial.user_attrs.get(KIND, SAMPLED))


def items_of(trial: FrozenTrial) -> int:
    """How many search items were scored for the trial; 0 where the scores of an identical candidate were used."""
    return int(trial.user_attrs.get(ITEMS, 0))


def point_to_retry(trial: FrozenTrial) -> dict[str, Any]:
    """The point of an interrupted trial by parameter name; empty where the process was killed before it was complete.

    Empty, too, for a candidate with a name, which its source offers again.
    An incomplete point must not be enqueued: the sampler would choose the rest from another position of its sequence.
    Without it, the sampler chooses the same point again.
    """
    if kind_of(trial) in NAMED:
        return {}
    enqueued: dict[str, Any] | None = trial.system_attrs.get("fixed_params")
    return enqueued or (trial.params if RECIPE in trial.user_attrs else {})


def label_of(trial: FrozenTrial) -> str:
    """The trial's name in tables and messages."""
    return str(trial.user_attrs[NAME]) if kind_of(trial) in NAMED else f"trial {trial.number}"


def recovered_name(trial: FrozenTrial) -> str:
    """The name of the candidate that the trial's becomes by recovery."""
    return f"{label_of(trial)} recovered"


def recipe_of(trial: FrozenTrial) -> Recipe:
    """The recipe of the trial's candidate."""
    return _parsed(trial.user_attrs[RECIPE], trial.number)


@lru_cache(maxsize=256)
def _parsed(text: str, number: int) -> Recipe:
    return Recipe.read(parse_yaml(text), f"trial {number}")


def names_in_work(study: Study) -> set[str]:
    """The names of the baselines and soups whose trials are running."""
    trials = [trial for trial in running(study) if kind_of(trial) in NAMED]
    return {str(trial.user_attrs[NAME]) for trial in trials if NAME in trial.user_attrs}


def names_of_kind(study: Study, kind: str) -> set[object]:
    """The names of all trials of a kind, whatever their states."""
    history = history_of(study)
    unfinished = {trial.user_attrs.get(NAME) for trial in history.unfinished.values() if kind_of(trial) == kind}
    return history.names[kind] | unfinished


def scores_name(number: int | None) -> str:
    """The name under which a trial's scores on the search items are saved; None gives the pattern for all trials."""
    return "trial-*" if number is None else f"trial-{number:06d}"


def side_name(side: str, phenotype: str) -> str:
    """The name under which a candidate's scores and answers on one side's items are saved by the verdict."""
    return f"{side}-{phenotype}"


def reference_name(phenotype: str) -> str:
    """The name under which the scores of a baseline that a constraint names are saved, before it has a trial."""
    return f"reference-{phenotype}"
