"""What a descent gains on accuracies, and what it costs, leg by leg, begun at one weight for all models.

    python benchmarks/descent.py [--config FILE] [--weight W] [--seeds N] [--set KEY=VALUE ...]

``--set`` changes settings of the gradient start. Needs the checkpoints and tasks of the config, such as those that
``mergesearch demo`` makes. A leg's trial is scored in full, without racing. Prints a line for each leg and writes
results/benchmarks/descent.json.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import optuna
from machine import write_result
from optuna.trial import FrozenTrial, create_trial

from mergesearch.merge_ops.methods import Scalar
from mergesearch.parsing import parse_yaml
from mergesearch.search.candidates.gradient.start import bandwidth_of, items_worth
from mergesearch.search.candidates.gradient.validation import Validation
from mergesearch.search.candidates.plan import open_plan
from mergesearch.search.candidates.source import Candidate
from mergesearch.search.config import Config, read_sections
from mergesearch.search.session import Session
from mergesearch.search.study import trials as t
from mergesearch.search.study.run_folder import RunFolder
from mergesearch.search.study.run_store import RunStore

Point = dict[str, Scalar]


@dataclass(frozen=True)
class Row:
    """The end of a leg, as compared with the single weight that the descent began at.

    ``search`` and ``test``: gains on these items. ``judged``, ``error``: the gain in grades on the items that no leg
    follows, as compared with the best trial before, and its standard error. ``descended``, ``spent``: full evaluations
    so far, of the descent alone, and with the trials of its legs.
    """

    seed: int
    leg: str
    search: float
    test: float
    judged: float
    error: float
    descended: float
    spent: float


class Bench:
    """A session whose trials are scored in full, and nothing else."""

    def __init__(self, config: Path, seed: int, settings: dict[str, Any], folder: Path) -> None:
        data = read_sections(config)
        data["evaluate"]["split"]["seed"] = seed
        data["search"] = {"seed": seed, "start": "gradient", "gradient": settings}
        plan = open_plan(Config.model_validate(data), str(config))
        self.problem, self.folder = plan.problem, RunFolder(folder)
        self.study = optuna.create_study(direction="maximize")
        self.session = Session(plan, RunStore(self.folder, self.study, plan.problem.tasks.items("search")))
        self.session.prepare()

    def add(self, kind: str, name: str, point: Point) -> FrozenTrial:
        """Scores a point on all search items and adds its trial."""
        space, scorer = self.problem.space, self.session.scorer
        scored = scorer.score(space.fill(space.methods[0], point), in_full=True)
        result = scored.result
        self.folder.save_scores(t.scores_name(len(self.study.trials)), result.scores, result.items, result.margins)
        attributes = {t.KIND: kind, t.NAME: name, t.ITEMS: scored.spent, t.SECONDS: scored.seconds}
        value = self.problem.tasks.combined("search", result.scores)
        distributions = {dimension.name: dimension.distribution for dimension in space.dimensions}
        trial = create_trial(value=value, params=point, distributions=distributions, user_attrs=attributes)
        self.study.add_trial(trial)
        return self.study.trials[-1]

    def test(self, point: Point) -> float:
        """The objective on the test items."""
        space, tasks = self.problem.space, self.problem.tasks
        recipe = space.fill(space.methods[0], point)
        scores, _ = self.session.scorer.score_side(recipe, "test", tasks.counted("test"))
        return tasks.combined("test", scores)


def descend(bench: Bench, weight: float, seed: int) -> Iterator[Row]:
    """The legs of a descent."""
    space, source = bench.problem.space, bench.session.gradient
    assert source is not None
    validation = Validation(bench.problem.tasks, bench.folder, seed)
    begin = best = bench.add(t.BASELINE, "one weight", dict(space.start(space.methods[0], {"weight": weight})))
    tested = bench.test(dict(begin.params))
    legs = 0
    while isinstance(candidate := source.next(bench.study), Candidate):
        assert candidate.point is not None
        trial = bench.add(t.GRADIENT, candidate.name, dict(candidate.point))
        gain = validation.gain(trial, best, bandwidth_of(legs))
        assert gain is not None
        legs += 1
        descended = items_worth(bench.study, bench.folder) / bench.problem.tasks.search_items
        found, searched = bench.test(dict(trial.params)) - tested, t.score_of(trial) - t.score_of(begin)
        numbers = (searched, found, gain.value, gain.standard_error, descended, descended + legs)
        yield Row(seed, candidate.name, *(round(number, 4) for number in numbers))
        best = max(best, trial, key=t.score_of)


@click.command()
@click.option("--config", type=click.Path(path_type=Path), default=Path("configs/demo.yml"), show_default=True)
@click.option("--weight", default=0.2, show_default=True, help="The weight of all models that the descent begins at.")
@click.option("--seeds", default=3, show_default=True, help="How many seeds, of the split and of the descent.")
@click.option("--set", "settings", multiple=True, help="A setting of the gradient start, as in steps=32.")
def main(config: Path, weight: float, seeds: int, settings: tuple[str, ...]) -> None:
    """Descends from one weight for all models."""
    changed = {key: parse_yaml(value) for key, value in (setting.split("=") for setting in settings)}
    rows = []
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as folder:
            for row in descend(Bench(config, seed, changed, Path(folder)), weight, seed):
                click.echo(row)
                rows.append(asdict(row))
    write_result("descent", {"config": str(config), "weight": weight, "settings": changed, "legs": rows})


if __name__ == "__main__":
    main()
