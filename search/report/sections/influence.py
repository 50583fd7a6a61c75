"""Which dimensions decide how good a candidate is: importances by PED-ANOVA, and the values behind them."""

import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from optuna.importance import PedAnovaImportanceEvaluator
from optuna.study import Study, create_study
from optuna.trial import FrozenTrial, create_trial

from mergesearch.search.report.page.elements import details, note, section, small_figures
from mergesearch.search.report.page.figures import BLUE, GREY, RED, categories, figure, rounded, rows_height
from mergesearch.search.report.sections._dimensions import Place, distributions_of, places_of
from mergesearch.search.report.sections.best_trials import best_trials
from mergesearch.search.report.sections.slices import slices
from mergesearch.search.statistics import Array
from mergesearch.search.study import trials as t
from mergesearch.search.study.run_store import RunStore
from mergesearch.search.verdict.result import Verdict
from mergesearch.seeds import derive

LEAST = 20
"""The fewest trials that importances are computed from."""
MOST = 500
"""The most of them; of more, so many at random."""
SHOWN = 12
"""How many dimensions stand in the figure; the others are to be unfolded."""
SHUFFLES = 10
"""How often the trials' values are shuffled to find what chance gives."""
UNITS = {"layer": "layer", "group": "group of layers", "knot": "knot of the curves over depth"}
SUMS = "sums over dimensions."
EXPLAINED = (
    "Importance by PED-ANOVA: how much the values of a dimension among the best tenth of the trials differ from those "
    "among all of them; all dimensions sum to 100 %. Of {count} trials that were scored in full: baselines, and trials "
    "that racing stopped, are left out. The dotted line is what chance gives: the largest importance of any dimension "
    f"in {SHUFFLES} shuffles of the trials' values. What is not above chance is grey."
)


def influence(store: RunStore, verdict: Verdict) -> str:
    """Which dimensions matter, and the best candidates by them."""
    trials = sampled_trials(store)
    if len(trials) < LEAST:
        return best_trials(store, verdict, list(distributions_of(trials)))
    found = importances(trials)
    return _importances(store, trials, found) + best_trials(store, verdict, list(found.shares))


def _importances(store: RunStore, trials: Sequence[FrozenTrial], found: "Importances") -> str:
    """Importances by dimension, hole, depth, module and model, and slices of the most important dimensions."""
    names = list(found.shares)
    first = {name: found.shares[name] for name in names[:SHOWN]}
    recipe = store.study.user_attrs.get(t.CONFIG, {}).get("recipe") or {}
    chance = dict.fromkeys(names, found.chance)
    every = _bars(found.shares, chance, "importances-all", "The importance of every dimension.")
    return section(
        "Which dimensions matter",
        note(EXPLAINED.format(count=len(trials))),
        _bars(first, chance, "importances", "The most important dimensions."),
        details(f"All {len(names)} dimensions", every) if len(names) > SHOWN else "",
        _grouped(found, places_of(names, recipe)),
        slices(trials, names),
    )


def sampled_trials(store: RunStore) -> list[FrozenTrial]:
    """The trials that were scored in full, without baselines and soups; at most ``MOST`` of them, at random."""
    trials = [trial for trial in t.completed(store.study) if t.kind_of(trial) not in t.NAMED and trial.params]
    if len(trials) <= MOST:
        return trials
    chosen = np.random.default_rng(derive(0, "report")).choice(len(trials), MOST, replace=False)
    return [trials[at] for at in sorted(chosen)]


@dataclass(frozen=True)
class Importances:
    """``shares``: of each dimension, the largest first, which sum to 1; ``shuffled``: the same of shuffled values."""

    shares: dict[str, float]
    shuffled: list[dict[str, float]]

    @property
    def chance(self) -> float:
        """The largest share of any dimension that chance gives."""
        return max(max(each.values()) for each in self.shuffled)


def importances(trials: Sequence[FrozenTrial]) -> Importances:
    """The importance of every dimension; of several objectives, for their sum by weight.

    PED-ANOVA: Watanabe, Bansal & Hutter, PED-ANOVA: Efficiently Quantifying Hyperparameter Importance in Arbitrary
    Subspaces (IJCAI 2023).
    """
    scores = np.array([t.score_of(trial) for trial in trials])
    study, rng = _study_of(trials), np.random.default_rng(derive(0, "importances"))
    found, *shuffled = [
        _evaluated(study, scores),
        *(_evaluated(study, rng.permutation(scores)) for _ in range(SHUFFLES)),
    ]
    total = sum(found.values()) or 1.0
    order = sorted(found, key=lambda name: -found[name])
    return Importances(
        {name: found[name] / total for name in order},
        [{name: value / total for name, value in each.items()} for each in shuffled],
    )


def _study_of(trials: Sequence[FrozenTrial]) -> Study:
    study = create_study()
    study.add_trials(
        [create_trial(value=0.0, params=trial.params, distributions=trial.distributions) for trial in trials]
    )
    return study


def _evaluated(study: Study, scores: Array) -> dict[str, float]:
    """PED-ANOVA takes what is less for what is better, and warns of that."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return PedAnovaImportanceEvaluator().evaluate(study, target=lambda trial: -float(scores[trial.number]))


def _grouped(found: Importances, places: Mapping[str, Place]) -> str:
    """A figure for each grouping in which there are several groups."""
    figures = []
    for key in ("hole", "module", "model"):
        groups = {name: getattr(place, key) or "others" for name, place in places.items()}
        sums, chance = _sums(found, groups)
        if 1 < len(sums) < len(places):
            first = dict(sorted(sums.items(), key=lambda each: -each[1])[:SHOWN])
            figures.append(_bars(first, chance, f"importances-{key}", f"By {key}: {SUMS}"))
    for unit, what in UNITS.items():
        groups = {name: str(place.depth) for name, place in places.items() if place.unit == unit}
        sums, chance = _sums(found, groups)
        if len(sums) > 1:
            figures.append(_columns(sums, chance, f"importances-{unit}", f"By {what}: {SUMS}"))
    return small_figures(figures)


def _sums(found: Importances, groups: Mapping[str, str]) -> tuple[dict[str, float], dict[str, float]]:
    """The sum of each group's shares, and the largest that chance gives it.

    That is the group's mean over the shuffles, times the largest multiple of its mean that any group has in one.
    """
    sums, *shuffled = [_summed(shares, groups) for shares in (found.shares, *found.shuffled)]
    means = {group: sum(each[group] for each in shuffled) / len(shuffled) for group in sums}
    most = max((each[group] / means[group] for each in shuffled for group in sums if means[group]), default=1.0)
    return sums, {group: most * means[group] for group in sums}


def _summed(shares: Mapping[str, float], groups: Mapping[str, str]) -> dict[str, float]:
    sums: dict[str, float] = defaultdict(float)
    for name, group in groups.items():
        sums[group] += shares[name]
    return sums


def _colours(shares: Mapping[str, float], chance: Mapping[str, float], names: Sequence[str]) -> list[str]:
    return [BLUE if shares[name] > chance[name] else GREY for name in names]


def _columns(shares: Mapping[str, float], chance: Mapping[str, float], name: str, caption: str) -> str:
    """By depth, in its order."""
    from plotly import graph_objects as go

    depths = sorted(map(int, shares))
    drawn = go.Figure()
    drawn.add_bar(
        x=depths,
        y=[rounded(100 * shares[str(depth)]) for depth in depths],
        marker={"color": _colours(shares, chance, list(map(str, depths)))},
        hovertemplate="%{x}: %{y:.1f} %<extra></extra>",
    )
    drawn.update_layout(yaxis_title="importance, %", bargap=0.3, xaxis={"dtick": 1} if len(depths) < 10 else {})
    return figure(drawn, name, caption, 250)


def _bars(shares: Mapping[str, float], chance: Mapping[str, float], name: str, caption: str) -> str:
    """From the largest to the smallest; with a line where chance gives all the same."""
    from plotly import graph_objects as go

    names = list(shares)
    drawn = go.Figure()
    drawn.add_bar(
        x=[rounded(100 * shares[each]) for each in names],
        y=list(range(len(names))),
        orientation="h",
        marker={"color": _colours(shares, chance, names)},
        hovertemplate="%{x:.1f} %<extra></extra>",
    )
    if len(levels := set(chance.values())) == 1:
        drawn.add_vline(x=rounded(100 * levels.pop()), line={"color": RED, "width": 2, "dash": "dot"})
    drawn.update_layout(xaxis_title="importance, %", yaxis=categories(names), bargap=0.35)
    return figure(drawn, name, caption, rows_height(names))
