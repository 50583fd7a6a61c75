"""The trials of a study: what their attributes mean, which of them count, and which is best."""

from collections.abc import Sequence
from functools import lru_cache
from math import inf
from typing import Any, Literal

from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from mergesearch.merge_ops.recipe.recipe import Recipe
from mergesearch.parsing import parse_yaml

Direction = Literal["maximize", "minimize"]

CONFIG = "config"
"""The study's user attribute with the resolved config, which the run's folder has as a file."""

# Names of a trial's user attributes.
KIND = "kind"
"""The kind of the candidate, one of the kinds below."""
NAME = "name"
"""The candidate's name, for kinds that have one."""
RECIPE = "recipe"
"""The candidate's recipe, as YAML."""
PHENOTYPE = "phenotype"
"""The digest of the recipe's effect; candidates with the same digest are the same model."""
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
SLOT = "slot"
"""The position in the sampler's sequence from which the point came."""
LEASE = "lease"
"""Which worker scores the trial, and until when the others leave the trial to it."""
SCORE = "score"
"""With several objectives: their sum by the user's weights."""

# Kinds of candidates.
BASELINE = "baseline"
"""A recipe that the search must beat."""
START = "start"
"""A method's usual setting within the space."""
GRADIENT = "gradient"
"""A point that a descent by gradients reached."""
SAMPLED = "sampled"
"""A point that the sampler chose."""
SOUP = "soup"
"""A soup that the config asks for."""
STEP = "step"
"""A soup on the way to another one; it cannot win the run."""
NAMED = (BASELINE, SOUP, STEP)
"""The kinds whose candidates have names and are scored on all search items."""

INTERRUPTED = "interrupted"
"""The REASON of a trial whose process was killed; another trial takes over its point."""


def finished(study: Study) -> list[FrozenTrial]:
    """The complete, pruned and failed trials, without the interrupted ones."""
    states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
    trials = study.get_trials(deepcopy=False, states=states)
    return [trial for trial in trials if not is_interrupted(trial)]


def begun(study: Study) -> list[FrozenTrial]:
    """The finished and the running trials, without the interrupted ones."""
    trials = study.get_trials(deepcopy=False)
    return [trial for trial in trials if trial.state != TrialState.WAITING and not is_interrupted(trial)]


def running(study: Study) -> list[FrozenTrial]:
    """The running trials of all workers."""
    return study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))


def is_interrupted(trial: FrozenTrial) -> bool:
    """Whether the process of the trial was killed."""
    return bool(trial.user_attrs.get(REASON) == INTERRUPTED)


def completed(study: Study) -> list[FrozenTrial]:
    """The trials that were scored on all search items."""
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


def contenders(study: Study) -> list[FrozenTrial]:
    """The completed trials that can win the run."""
    return [trial for trial in completed(study) if kind_of(trial) != STEP]


def stopped(study: Study) -> list[FrozenTrial]:
    """The trials that racing stopped early; their values are estimates."""
    return study.get_trials(deepcopy=False, states=(TrialState.PRUNED,))


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

    An incomplete point must not be enqueued: the sampler would choose the rest from another position of its sequence.
    Without it, the sampler chooses the same point again.
    """
    enqueued: dict[str, Any] | None = trial.system_attrs.get("fixed_params")
    return enqueued or (trial.params if RECIPE in trial.user_attrs else {})


def label_of(trial: FrozenTrial) -> str:
    """The trial's name in tables and messages."""
    return str(trial.user_attrs[NAME]) if kind_of(trial) in NAMED else f"trial {trial.number}"


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
    return {trial.user_attrs.get(NAME) for trial in study.get_trials(deepcopy=False) if kind_of(trial) == kind}


def scores_name(number: int | None) -> str:
    """The name under which a trial's scores on the search items are saved; None gives the pattern for all trials."""
    return "trial-*" if number is None else f"trial-{number:06d}"


def reference_name(phenotype: str) -> str:
    """The name under which the scores of a baseline that a constraint names are saved, before it has a trial."""
    return f"reference-{phenotype}"
