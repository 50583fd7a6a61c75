"""Soups as candidates: of each kind that is asked for, one soup after the other, decided by the trials so far."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from math import inf

from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from mergesearch.merge_ops.recipe.recipe import Recipe
from mergesearch.search.candidates.baselines import BaselineSource
from mergesearch.search.candidates.soups import Members, Steps, follow, greedy, pruned, soup_recipe, uniform
from mergesearch.search.candidates.source import Candidate, Done, Wait
from mergesearch.search.config.soup import Learning, SoupKind
from mergesearch.search.problem.task_set import TaskSet
from mergesearch.search.signal.signal import Signal
from mergesearch.search.space.paths import model_labels
from mergesearch.search.statistics import Estimate, difference_of, estimated
from mergesearch.search.study import trials as t
from mergesearch.search.study.run_store import RunStore
from mergesearch.seeds import derive

LEARNED = ("learned", "learned_layers")


@dataclass(frozen=True)
class SoupPlan:
    """Which soups are made: of ``models``, of each of these kinds in turn.

    ``shared_keys`` are recipe keys that all soups have, such as dtype. ``standalone`` is as for ``soup_recipe``.
    """

    models: Sequence[str]
    kinds: Sequence[SoupKind]
    learning: Learning = field(default_factory=Learning)
    shared_keys: Mapping[str, object] = field(default_factory=dict)
    standalone: Sequence[str] = ()

    @property
    def takes_gradients(self) -> bool:
        """Whether a soup among them is learned."""
        return bool(set(LEARNED) & set(self.kinds))

    @property
    def expected_trials(self) -> int:
        """About how many trials the soups take: one for each comparison that is certain, and one for each end."""
        return sum(len(self.models) if kind not in ("uniform", *LEARNED) else 1 for kind in self.kinds)

    def recipe(self, weights: Mapping[str, object], name: str) -> Recipe:
        """The recipe of the models with these weights."""
        return Recipe.read(soup_recipe(weights, self.shared_keys, self.standalone), name)

    def name_of(self, soup: Members) -> str:
        """The name of the soup's trial; of a single model, its label."""
        return self.labels[soup[0]] if len(soup) == 1 else f"soup of {' + '.join(self.labels[m] for m in soup)}"

    @cached_property
    def labels(self) -> dict[str, str]:
        """The models' short names."""
        return model_labels(list(self.models))


class SoupSource:
    """The soups of a plan. The models themselves are baselines, which are scored before.

    ``learn`` finds the recipe of a learned soup, with one coefficient a model or, if true, one a model and layer. It is
    called when that soup is scored, so that a failure is its trial's. ``seed`` is the run's.
    """

    may_overtake = False

    def __init__(  # noqa: PLR0913, PLR0917 - what soups are decided by
        self,
        plan: SoupPlan,
        baselines: BaselineSource,
        tasks: TaskSet,
        store: RunStore,
        signal: Signal,
        seed: int,
        learn: Callable[[bool], Recipe],
    ) -> None:
        self._plan = plan
        self._baselines = baselines
        self._scores = SoupScores(plan, tasks, store, signal, seed)
        self._learn = learn

    def next(self, study: Study) -> Candidate | Wait | Done:
        """See ``Source.next``. A soup on the way is of the kind ``STEP``, the one that a kind ends with ``SOUP``."""
        if not self._baselines.are_scored(study) or t.names_in_work(study):
            return Wait()
        ended = {trial.user_attrs[t.NAME] for trial in t.of_kind(study, t.SOUP)}
        kind = next((kind for kind in self._plan.kinds if title(kind) not in ended), None)
        if kind is None:
            return Done("every soup was made")
        if kind in LEARNED:
            return Candidate(t.SOUP, title(kind), recipe=lambda: self._learn(kind == "learned_layers"))
        return self._following(kind)

    def _following(self, kind: SoupKind) -> Candidate:
        steps, rule = KINDS[kind]
        scores = self._scores.read()
        soup, has_ended = follow(steps(scores.ranked), scores.is_scored, partial(rule, scores))
        name = title(kind) if has_ended else self._plan.name_of(soup)
        weights = dict.fromkeys(soup, 1.0)
        return Candidate(t.SOUP if has_ended else t.STEP, name, recipe=lambda: self._plan.recipe(weights, name))


class SoupScores:
    """What the finished trials say of soups."""

    def __init__(self, plan: SoupPlan, tasks: TaskSet, store: RunStore, signal: Signal, seed: int) -> None:
        self._plan, self._tasks, self._store, self._signal, self._seed = plan, tasks, store, signal, seed
        self._trials: dict[str, FrozenTrial] = {}
        self._gains: dict[tuple[Members, Members], Estimate] = {}
        self._readings = signal.readings

    def read(self) -> "SoupScores":
        """Reads the trials anew. Intervals are kept until the signal is read otherwise."""
        if self._signal.readings is not self._readings:
            self._readings = self._signal.readings
            self._gains.clear()
        finished = t.finished(self._store.study)
        self._trials = {
            str(trial.user_attrs.get(t.NAME)): trial for trial in finished if t.kind_of(trial) in (t.BASELINE, t.STEP)
        }
        return self

    @property
    def ranked(self) -> list[str]:
        """The models in descending order of their own score; equals stay in the order in which they were given."""
        return sorted(self._plan.models, key=lambda model: -self.score((model,)))

    def is_scored(self, soup: Members) -> bool:
        return self._plan.name_of(soup) in self._trials

    def score(self, soup: Members) -> float:
        """The objective on the search items; minus infinity where the soup could not be scored in full."""
        trial = self._trial(soup)
        return self._signal.value_of(trial) if trial and trial.state == TrialState.COMPLETE else -inf

    def gain(self, new: Members, old: Members) -> Estimate:
        """new − old in the objective on the same search items, with a 95 % interval."""
        if -inf in (self.score(new), self.score(old)):
            sign = -inf if self.score(new) == -inf else inf
            return Estimate(sign, sign, sign)
        if (new, old) not in self._gains:
            self._gains[new, old] = self._paired(new, old)
        return self._gains[new, old]

    def _paired(self, new: Members, old: Members) -> Estimate:
        one, two = (self._signal.strata_of(self._trial_of(soup)) for soup in (new, old))
        seed = derive(self._seed, "soup", self._plan.name_of(new), self._plan.name_of(old))
        return estimated(difference_of(one, two, self._tasks.objective("search").combine), seed)

    def _trial_of(self, soup: Members) -> FrozenTrial:
        trial = self._trial(soup)
        assert trial is not None
        return trial

    def _trial(self, soup: Members) -> FrozenTrial | None:
        return self._trials.get(self._plan.name_of(soup))


Rule = Callable[[SoupScores, Members, Members], bool]


def _is_higher(scores: SoupScores, new: Members, old: Members) -> bool:
    return scores.score(new) > scores.score(old)


def _gains_beyond_chance(scores: SoupScores, new: Members, old: Members) -> bool:
    return scores.gain(new, old).low > 0


def _does_no_harm(scores: SoupScores, new: Members, old: Members) -> bool:
    return scores.gain(new, old).high >= 0


KINDS: Mapping[str, tuple[Callable[[Sequence[str]], Steps], Rule]] = {
    "uniform": (uniform, _is_higher),
    "greedy": (greedy, _is_higher),
    "greedy_gain": (greedy, _gains_beyond_chance),
    "greedy_safe": (greedy, _does_no_harm),
    "pruned": (pruned, _is_higher),
}
"""Steps and rule of each kind. A soup is better by a higher score; by a gain whose paired interval lies above zero; or
by an interval that does not lie below zero. Each interval is for one step: the verdict on the test items judges the
whole."""


def title(kind: str) -> str:
    """``greedy soup (gain)``: the name of the soup that a kind ends with."""
    name, _, how = kind.partition("_")
    return f"{name} soup ({how})" if how else f"{name} soup"
