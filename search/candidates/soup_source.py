"""The stage of a run that makes soups: which one to score next, decided by the finished trials alone."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from math import inf
from typing import TYPE_CHECKING

from optuna.trial import FrozenTrial, TrialState
from torch import Tensor

from mergesearch.merge_ops.recipe.recipe import Recipe
from mergesearch.search.candidates.baselines import Baseline
from mergesearch.search.candidates.soups import Soup, Steps, follow, greedy, pruned, soup_recipe, uniform
from mergesearch.search.config.soup import Kind, Learning
from mergesearch.search.space.paths import model_labels
from mergesearch.search.statistics import Estimate, bootstrap_difference
from mergesearch.search.study import trials as t
from mergesearch.seeds import derive

if TYPE_CHECKING:
    from mergesearch.search.scoring.live_model import Bench

Rule = Callable[["Tasted", Soup, Soup], bool]


@dataclass(frozen=True)
class LearnedSoup:
    """A soup whose recipe is found when it is asked for, so that its trial answers for what goes wrong."""

    name: str
    find: Callable[[], Recipe]
    kind: str = t.SOUP

    @property
    def recipe(self) -> Recipe:
        return self.find()


@dataclass(frozen=True)
class SoupStage:
    """Soups of ``models``, of each of these kinds in turn; ``fixed`` are recipe keys that all share, such as dtype."""

    models: Sequence[str]
    kinds: Sequence[Kind]
    learning: Learning = field(default_factory=Learning)
    fixed: Mapping[str, object] = field(default_factory=dict)
    gains: dict[tuple[Soup, Soup], Estimate] = field(default_factory=dict, compare=False)
    """Intervals known so far: what they are computed from never changes."""

    def prepare(self, bench: "Bench") -> None:
        """Checks what is known with the live model alone, before anything is scored. Raises UserError."""
        if set(LEARNED) & set(self.kinds):
            from mergesearch.search.candidates.learned_soup import check_gold

            check_gold(bench)

    def following(self, bench: "Bench") -> Baseline | LearnedSoup | None:
        """The next soup to score; None when every kind has its own. The models themselves must be scored before.

        A soup on the way is of the kind ``STEP``, what a kind ends with of the kind ``SOUP``.
        """
        tasted = Tasted(bench, self)
        kind = next((kind for kind in self.kinds if title(kind) not in tasted.ends), None)
        if kind is None:
            return None
        return self._learned(kind, bench) if kind in LEARNED else self._next(kind, tasted)

    @property
    def expected_trials(self) -> int:
        """About how many trials the stage has: one for each question that is surely asked, and each end."""
        return sum(len(self.models) if kind not in ("uniform", *LEARNED) else 1 for kind in self.kinds)

    def _next(self, kind: Kind, tasted: "Tasted") -> Baseline:
        recipe, rule = KINDS[kind]
        soup, ended = follow(recipe(tasted.ranked), tasted.is_scored, partial(rule, tasted))
        weights = dict.fromkeys(soup, 1.0)
        if ended:
            return self._proposal(title(kind), weights, t.SOUP)
        return self._proposal(self.name_of(soup), weights, t.STEP)

    def _learned(self, kind: Kind, bench: "Bench") -> LearnedSoup:
        from mergesearch.search.candidates.learned_soup import learn

        return LearnedSoup(title(kind), lambda: learn(bench, self, by_layer=kind == "learned_layers"))

    def _proposal(self, name: str, weights: Mapping[str, object], kind: str) -> Baseline:
        return Baseline(name, self.recipe(weights, name), kind)

    def recipe(self, weights: Mapping[str, object], name: str) -> Recipe:
        """Of the models with these weights."""
        return Recipe.read(soup_recipe(weights, self.fixed), name)

    def name_of(self, soup: Soup) -> str:
        """What the soup's trial is called: a single model by its label."""
        return self.labels[soup[0]] if len(soup) == 1 else f"soup of {' + '.join(self.labels[m] for m in soup)}"

    @cached_property
    def labels(self) -> dict[str, str]:
        """The models' short names."""
        return model_labels(list(self.models))


class Tasted:
    """What the finished trials say of soups."""

    def __init__(self, bench: "Bench", stage: SoupStage) -> None:
        self._bench, self._stage = bench, stage
        named = {str(trial.user_attrs.get(t.NAME)): trial for trial in t.finished(bench.study)}
        self.ends = {name for name, trial in named.items() if t.kind_of(trial) == t.SOUP}
        self._trials = {name: trial for name, trial in named.items() if t.kind_of(trial) in (t.BASELINE, t.STEP)}

    @property
    def ranked(self) -> list[str]:
        """The models in descending order of their own score; equals stay in the order in which they were given."""
        return sorted(self._stage.models, key=lambda model: -self.score((model,)))

    def is_scored(self, soup: Soup) -> bool:
        return self._stage.name_of(soup) in self._trials

    def score(self, soup: Soup) -> float:
        """The objective on the search items; minus infinity where the soup could not be scored in full."""
        trial = self._trial(soup)
        return t.score_of(trial) if trial and trial.state == TrialState.COMPLETE else -inf

    def gain(self, new: Soup, old: Soup) -> Estimate:
        """new − old in the objective on the same search items, with a 95 % interval."""
        if -inf in (self.score(new), self.score(old)):
            sign = -inf if self.score(new) == -inf else inf
            return Estimate(sign, sign, sign)
        if (new, old) not in self._stage.gains:
            self._stage.gains[new, old] = self._paired(new, old)
        return self._stage.gains[new, old]

    def _paired(self, new: Soup, old: Soup) -> Estimate:
        job, name = self._bench.job, self._stage.name_of
        one, two = (job.strata("search", self._scores(soup)) for soup in (new, old))
        seed = derive(job.config.search.seed, "soup", name(new), name(old))
        return bootstrap_difference(one, two, job.objective_of("search").combine, seed)

    def _scores(self, soup: Soup) -> Mapping[str, Tensor]:
        trial = self._trial(soup)
        assert trial is not None
        return self._bench.folder.load_scores(t.scores_name(trial.number))

    def _trial(self, soup: Soup) -> FrozenTrial | None:
        return self._trials.get(self._stage.name_of(soup))


def _strictly(tasted: Tasted, new: Soup, old: Soup) -> bool:
    return tasted.score(new) > tasted.score(old)


def _beyond_chance(tasted: Tasted, new: Soup, old: Soup) -> bool:
    return tasted.gain(new, old).low > 0


def _without_harm(tasted: Tasted, new: Soup, old: Soup) -> bool:
    return tasted.gain(new, old).high >= 0


KINDS: Mapping[str, tuple[Callable[[Sequence[str]], Steps], Rule]] = {
    "uniform": (uniform, _strictly),
    "greedy": (greedy, _strictly),
    "greedy_gain": (greedy, _beyond_chance),
    "greedy_safe": (greedy, _without_harm),
    "pruned": (pruned, _strictly),
}
"""Recipe and rule of each kind: better is a higher score; a gain whose paired interval lies above zero; or one whose
interval does not lie below zero. The intervals are of one step each: the verdict on the test items answers for the
whole."""
LEARNED = ("learned", "learned_layers")


def title(kind: str) -> str:
    """``greedy (gain) soup``: what the soup that a kind ends with is called."""
    name, _, how = kind.partition("_")
    return f"{name} soup ({how})" if how else f"{name} soup"
