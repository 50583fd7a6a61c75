"""``mergesearch curve``: scores a path of merges, as between two models, at several points of a recipe's only hole."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from mergesearch.errors import UserError, located
from mergesearch.evaluators import content_hash
from mergesearch.files import atomic_path, write_text
from mergesearch.foreign import other_code
from mergesearch.merge_ops.engine.engine import find_device
from mergesearch.merge_ops.methods import Scalar, find_method
from mergesearch.merge_ops.recipe.recipe import Recipe
from mergesearch.parsing import dump_yaml
from mergesearch.say import Say, silent
from mergesearch.search.across.curve import Curve, label_of, task_curves
from mergesearch.search.config import Config
from mergesearch.search.problem.identity import FILE as IDENTITY
from mergesearch.search.problem.identity import REMEDY, Identity
from mergesearch.search.problem.problem import Problem, open_problem
from mergesearch.search.problem.tasks import Scores
from mergesearch.search.report.curve_html import curve_html
from mergesearch.search.scoring.live_model import LiveModel, open_engine
from mergesearch.search.scoring.threads import chosen_threads
from mergesearch.search.scoring.token_budget import RunBudget
from mergesearch.search.space.dimension import METHOD, Dimension
from mergesearch.search.study.environment import note_environment
from mergesearch.search.study.run_folder import CONFIG, RunFolder
from mergesearch.steps import step

CURVES = Path("results/curves")
JSON, PAGE, OWN_CONFIG, RECIPES = "curve.json", "curve.html", "curve.yml", "recipes"
FEWEST = 2
"""Points of a curve."""
OF_SCORES = {"max_length", "mode", "quantization"}
"""Settings of ``evaluate``, for all tasks, on which scores depend."""


def score_curve(  # noqa: PLR0913, PLR0917 - a config, its path, and where it is kept
    config: Config,
    where: str,
    points: int = 11,
    at: Sequence[Scalar] = (),
    results: Path = CURVES,
    tell: Say = silent,
) -> Curve:
    """Scores the recipe at ``points`` values of its hole, or ``at`` these, on the search items alone.

    The checkpoints are read once, and kept in memory where they fit. What was scored before, with the same content, is
    read from ``results/NAME``, where the curve is left as JSON and as a page, with the recipes. Raises UserError for an
    invalid config, for a recipe without exactly one hole, and for a point that cannot be built or scored.
    """
    if points < FEWEST:
        raise UserError(f"points: found {points}, expected {FEWEST} or more: a curve has two ends")
    problem = open_problem(config, where)
    with located(where):
        dimension = _only_dimension(problem)
        values = _checked(dimension, at) if at else dimension.spread(points)
    folder = RunFolder(results / config.output.name, tell)
    if (folder.path / CONFIG).exists():
        raise UserError(f"{folder.path}: is the folder of a run; give the curve another name with --name")
    with folder.locked(), chosen_threads(config.threads, tell):
        folder.clean_up()
        return _Path(problem, dimension, folder, tell).curve(values)


def _only_dimension(problem: Problem) -> Dimension:
    dimensions = problem.space.dimensions
    if len(dimensions) == 1:
        return dimensions[0]
    found = f"{len(dimensions)}: {', '.join(each.name for each in dimensions[:8])}" if dimensions else "none"
    raise UserError(
        f"recipe: a curve goes along one dimension, found {found}; leave one {{search: [LOW, HIGH]}}, let others have "
        "its value by {same_as: NAME}, and give the rest fixed values"
    )


def _checked(dimension: Dimension, values: Sequence[Scalar]) -> list[Scalar]:
    """The values in order, each once. Raises UserError for one that the hole does not have."""
    for value in values:
        if dimension.nearest(value) != value:
            raise UserError(f"{dimension.name}: found {value}, expected values of {dimension.described}")
    found = dict.fromkeys(dimension.nearest(value) for value in values)
    numbers = [value for value in found if not isinstance(value, str)]
    return sorted(numbers) if len(numbers) == len(found) else list(found)


@dataclass(frozen=True)
class _Path:
    """What is scored, and where it is kept."""

    problem: Problem
    dimension: Dimension
    folder: RunFolder
    tell: Say

    def curve(self, values: Sequence[Scalar]) -> Curve:
        problem, config = self.problem, self.problem.config
        recipes = [self._recipe(value) for value in values]
        live = self._live_model()
        unrecovered = ["recover: a curve shows the merges as they are, without recovery"] if config.recover else []
        for line in (*problem.warnings, *unrecovered, *problem.tasks.prepare(live.loaded)):
            self.tell(line)
        note_environment(self.folder.path, find_device(config.device))
        content = self._content(live)
        scores = []
        for number, (value, recipe) in enumerate(zip(values, recipes, strict=True), 1):
            point = f"{self.dimension.name} = {label_of(value)}"
            with located(point), step(f"point {number} of {len(values)}, {point}"):
                scores.append(self._scores(live, recipe, content))
        is_log = bool(getattr(self.dimension.distribution, "log", False))
        found = Curve(
            self.folder.path.name,
            self.dimension.name,
            is_log,
            values,
            task_curves(problem.tasks, scores, config.search.seed),
            [recipe.to_yaml() for recipe in recipes],
            problem.tasks.notes,
        )
        self._write(found)
        return found

    def _recipe(self, value: Scalar) -> Recipe:
        space = self.problem.space
        method = find_method(str(value)) if self.dimension.name == METHOD else space.methods[0]
        return space.fill(method, {self.dimension.name: value})

    def _live_model(self) -> LiveModel:
        config = self.problem.config
        with step("reading models"):
            engine = open_engine(self.problem, takes_gradients=False)
        budget = RunBudget(self.folder, config.evaluate, find_device(config.device), self.tell)
        budget.follow()
        return LiveModel(engine, config.evaluate, budget.budget, self.folder.path)

    def _content(self, live: LiveModel) -> str:
        """A digest of all that scores depend on beside the recipe: checkpoints, items, code and settings."""
        before = self.folder.read_json(IDENTITY, Identity, REMEDY)
        now = Identity.of(self.problem, before)
        if now != before:
            self.folder.write_json(IDENTITY, asdict(now))
        live.contents = {name: content.tensors for name, content in now.checkpoints.items()}
        config = self.problem.config
        models = {name: [content.tensors, content.files] for name, content in now.checkpoints.items()}
        settings = config.evaluate.model_dump(include=OF_SCORES)
        return content_hash([models, now.items, now.files, settings, config.builder])

    def _scores(self, live: LiveModel, recipe: Recipe, content: str) -> Scores:
        """A point's scores on the search items, read where the same model was scored before."""
        tasks = [task for task in self.problem.tasks if task.search]
        model = [live.engine.phenotype(recipe, live.contents), live.engine.is_standalone(recipe)]
        name = content_hash([model, content])[:32]
        if self.folder.has_scores(name):
            return self.folder.load_scores(name, self.problem.tasks.items("search"))
        with _failures(), step(f"building {recipe.merge_method}"), other_code(f"merge method {recipe.merge_method!r}"):
            live.engine.build(recipe)
        if live.engine.is_standalone(recipe):
            self.problem.tasks.prepare(live.loaded)
        scores = {}
        with step("scoring", sum(len(task.search) for task in tasks), "items"):
            for task in tasks:
                with task.refusals():
                    scores[task.name] = task.score(live.loaded, task.search)
        self.folder.save_scores(name, scores, self.problem.tasks.items("search"))
        return scores

    def _write(self, found: Curve) -> None:
        folder = self.folder.path
        with atomic_path(folder / RECIPES) as recipes:
            recipes.mkdir()
            for number, text in enumerate(found.recipes, 1):
                (recipes / f"{number:02}.yml").write_text(text, encoding="utf-8")
        write_text(folder / OWN_CONFIG, dump_yaml(self.problem.config.dump()))
        self.folder.write_json(JSON, found.to_json())
        write_text(folder / PAGE, curve_html(found))


@contextmanager
def _failures() -> Iterator[None]:
    try:
        yield
    except FloatingPointError as error:
        raise UserError(str(error)) from error
