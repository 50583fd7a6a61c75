"""What a study's trials say: which count, what each stands for."""

from collections.abc import Sequence
from math import inf
from typing import Any

from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

# User attributes of a trial.
KIND = "kind"
NAME = "name"
RECIPE = "recipe"
PHENOTYPE = "phenotype"
VALUES = "values"
SECONDS = "seconds"
REASON = "reason"
RETRY_OF = "retry_of"
ITEMS = "items"
"""How many search items were scored for the trial."""
AGAINST = "against"
"""The incumbent's number when the trial was stopped."""
SLOT = "slot"
LEASE = "lease"
"""Which worker is at the trial, and until when that is to be believed."""
SCORE = "score"
"""With several objectives: their sum by the user's weights."""

BASELINE, START, GRADIENT, SAMPLED = "baseline", "start", "gradient", "sampled"
"""Kinds: a recipe that the search must beat, a usual setting within the space, a point that gradients led to, the
sampler's own."""
SOUP, STEP = "soup", "step"
"""Kinds: a soup that was asked for, and one that was scored on the way to it, which wins nothing itself."""
NAMED = (BASELINE, SOUP, STEP)
"""The kinds that are known by a name, and scored on all search items."""
INTERRUPTED = "interrupted"
"""The reason of a trial whose process ended in the middle of it; another one takes its place."""


def finished(study: Study) -> list[FrozenTrial]:
    """The trials that count: scored, pruned, or failed for a reason of their own."""
    states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
    trials = study.get_trials(deepcopy=False, states=states)
    return [trial for trial in trials if not is_interrupted(trial)]


def begun(study: Study) -> list[FrozenTrial]:
    """The trials that count, and those in work, which will."""
    trials = study.get_trials(deepcopy=False)
    return [trial for trial in trials if trial.state != TrialState.WAITING and not is_interrupted(trial)]


def running(study: Study) -> list[FrozenTrial]:
    """The trials in work, here or elsewhere."""
    return study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))


def is_interrupted(trial: FrozenTrial) -> bool:
    """Whether the trial's process ended in the middle of it."""
    return bool(trial.user_attrs.get(REASON) == INTERRUPTED)


def completed(study: Study) -> list[FrozenTrial]:
    """The trials with a score on all search items."""
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


def contenders(study: Study) -> list[FrozenTrial]:
    """Those of them that may win the run."""
    return [trial for trial in completed(study) if kind_of(trial) != STEP]


def stopped(study: Study) -> list[FrozenTrial]:
    """The trials that were stopped early; their values are estimates."""
    return study.get_trials(deepcopy=False, states=(TrialState.PRUNED,))


def score_of(trial: FrozenTrial) -> float:
    """The objective, or the sum of several by the user's weights; minus infinity where the trial failed."""
    if SCORE in trial.user_attrs:
        return float(trial.user_attrs[SCORE])
    return trial.value if trial.value is not None else -inf


def violation(trial: FrozenTrial) -> float:
    """By how much the trial misses the constraints that it misses, summed; 0 where it keeps all."""
    return sum(max(0.0, value) for value in trial.constraints.values())


def best(trials: Sequence[FrozenTrial]) -> FrozenTrial:
    """The highest score among those that keep the constraints; where none does, the one that misses by least.

    Of equals the first, which is the simpler one where baselines are among them.
    """
    return max(trials, key=lambda trial: (-violation(trial), score_of(trial), -trial.number))


def kind_of(trial: FrozenTrial) -> str:
    return str(trial.user_attrs.get(KIND, SAMPLED))


def items_of(trial: FrozenTrial) -> int:
    """How many search items were scored for the trial; none where an identical one was known."""
    return int(trial.user_attrs.get(ITEMS, 0))


def wish_of(trial: FrozenTrial) -> dict[str, Any]:
    """The whole point that an unfinished trial was to score; nothing where its process ended while it was asked for.

    Half a point must not be asked for again: the sampler would draw the other half from the wrong place of its
    sequence, whereas it draws the whole point again by itself.
    """
    enqueued: dict[str, Any] | None = trial.system_attrs.get("fixed_params")
    return enqueued or (trial.params if RECIPE in trial.user_attrs else {})


def label_of(trial: FrozenTrial) -> str:
    """What the tables call the trial."""
    if kind_of(trial) in NAMED:
        return str(trial.user_attrs[NAME])
    return f"trial {trial.number}"


def scores_name(number: int | None) -> str:
    """What the per-item scores of a trial on the search items are kept under; a pattern for those of all."""
    return "trial-*" if number is None else f"trial-{number:06d}"


def reference_name(phenotype: str) -> str:
    """What the scores of a baseline are kept under that constraints name, before it has a trial."""
    return f"reference-{phenotype}"
