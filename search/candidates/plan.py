"""Which candidates a run scores beside the sampler's: settled and checked before any model is loaded."""

from dataclasses import dataclass, field

from mergesearch.errors import located
from mergesearch.search.candidates.baselines import Baselines, Endpoints, constraint_baselines, usual_baselines
from mergesearch.search.candidates.gradient.feasibility import StartChoice, check_learning, choose_start
from mergesearch.search.candidates.soup_ingredients import check_shared_start
from mergesearch.search.candidates.soup_source import SoupPlan
from mergesearch.search.config import Config
from mergesearch.search.config.soup import Learning
from mergesearch.search.problem.problem import Problem, open_problem
from mergesearch.search.samplers.schedule import AUTO, check_follow_several, plan
from mergesearch.search.space.levels import Level, levels_of

TRIALS_PER_DIMENSION = 2
"""A budget of fewer trials than this for each dimension is warned of, but before a descent, which needs no more."""


@dataclass(frozen=True)
class SearchPlan:
    """A problem with the candidates that are settled beforehand: its baselines, its soups and how the search starts."""

    problem: Problem
    baselines: Endpoints
    soups: SoupPlan | None = None
    start: StartChoice = field(default_factory=StartChoice)

    @property
    def trials(self) -> int:
        """How many trials the run has in all; a run of soups, about how many."""
        if self.soups and self.problem.config.soup:
            return len(self.problem.references) + self.soups.expected_trials
        return self.problem.config.search.trials

    @property
    def levels(self) -> list[Level]:
        """The levels that are searched before the sampler, of the first method that has any."""
        search, space = self.problem.config.search, self.problem.space
        is_auto = search.levels == "auto" and search.sampler == AUTO and search.schedule is None
        if not (is_auto or search.levels == "all") or self.problem.tasks.directions is not None:
            return []
        return next((found for method in space.methods if (found := levels_of(space, method))), [])

    @property
    def warnings(self) -> list[str]:
        """What the user should know before the run, one line each."""
        return [*self.problem.warnings, *self._budget_warnings()]

    def _budget_warnings(self) -> list[str]:
        if self.problem.config.soup:
            return []
        dimensions, baselines = len(self.problem.space.dimensions), len(self.baselines)
        if not dimensions:
            return [
                "recipe: has nothing to search: every candidate is the same merge; write {search: [LOW, HIGH]} or "
                "{search: [CHOICES]} in place of a value"
            ]
        if self.trials <= baselines:
            return [f"search.trials: {self.trials} are all taken by the {baselines} baselines; nothing is searched"]
        left = self.trials - baselines
        if left < TRIALS_PER_DIMENSION * dimensions and not self.start.gradient:
            return [
                f"search.trials: {self.trials} less {baselines} baselines are {left} for {dimensions} dimensions; "
                f"expect little with fewer than {TRIALS_PER_DIMENSION} a dimension "
                f"({baselines + TRIALS_PER_DIMENSION * dimensions})"
            ]
        return []

    @property
    def takes_gradients(self) -> bool:
        """Whether memory for gradients of the weights is needed beside the live model."""
        return self.start.gradient or bool(self.soups and self.soups.takes_gradients)


def open_plan(config: Config, where: str) -> SearchPlan:
    """Checks a config and plans its candidates. Raises UserError, whose message begins with ``where``."""
    problem = open_problem(config, where)
    with located(where):
        return _plan(problem)


def _plan(problem: Problem) -> SearchPlan:
    config, space = problem.config, problem.space
    ends = (space.models, space.base, problem.shared_keys, space.bases, problem.standalone)
    baselines = Endpoints(*ends) if config.soup else Baselines(*ends, usual_baselines(space))
    constraint_baselines(config.evaluate.constraints, baselines)
    if config.evaluate.aggregate == "pareto":
        check_follow_several(plan(space, config.search, several=True))
    soups = _soup_plan(problem)
    return SearchPlan(problem, baselines, soups, StartChoice() if config.soup else _start(problem))


def _start(problem: Problem) -> StartChoice:
    evaluators = {task.name: task.evaluator for task in problem.tasks.counted("search")}
    dimensions = {method.name: len(problem.space.dimensions_of(method)) for method in problem.space.methods}
    return choose_start(problem.config, evaluators, problem.starts, dimensions)


def _soup_plan(problem: Problem) -> SoupPlan | None:
    config, space = problem.config, problem.space
    kinds = config.soup.kinds if config.soup else config.search.soups
    models = [model for model in space.models if model != space.base]
    if not kinds or len(models) < 2:
        return None
    learning = config.soup.learning if config.soup else Learning()
    soups = SoupPlan(models, kinds, learning, problem.shared_keys, problem.standalone)
    if soups.takes_gradients:
        check_learning(config, {task.name: task.evaluator for task in problem.tasks.counted("search")})
    if config.soup and config.soup.check_heads:
        check_shared_start(models, problem.dequantizes)
    return soups
