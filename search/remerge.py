"""The next round: the best merges of finished runs as the models of another search."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from optuna.trial import FrozenTrial

from mergesearch.errors import UserError
from mergesearch.files import PathName, write_text
from mergesearch.merge_ops.checkpoint.checkpoint import Checkpoint
from mergesearch.merge_ops.engine.documents import merge_recipes
from mergesearch.merge_ops.engine.engine import check_output
from mergesearch.merge_ops.engine.options import MergeOptions
from mergesearch.parsing import dump_yaml
from mergesearch.say import Say, silent
from mergesearch.search.config import Config
from mergesearch.search.problem.origins import Origin, from_checkpoints, searched_items
from mergesearch.search.problem.problem import Problem, open_problem
from mergesearch.search.signal.signal import Signal
from mergesearch.search.statistics import Array
from mergesearch.search.study import trials as t
from mergesearch.search.study.run_folder import CONFIG, RunFolder
from mergesearch.search.study.run_store import RunStore
from mergesearch.trust import trust_code

TOP = 4
"""How many merges are taken."""
POOL = 4
"""Of how many times as many merges the different ones are taken, the best first."""
WEIGHTS = {"search": "auto", "sums_to": 1.0, "curve": 3}
"""The weights of the next recipe."""


@dataclass(frozen=True)
class Merge:
    """A merge of a run, with what each search item adds to its objective."""

    run: "FinishedRun"
    trial: FrozenTrial
    scores: Array

    @property
    def rank(self) -> tuple[float, float, int]:
        """A sort key, best first."""
        return t.rank(*self.run.signal.told([self.trial]))

    @property
    def name(self) -> str:
        """That of its folder."""
        return f"{self.run.folder.path.name}-{self.trial.number}"


@dataclass(frozen=True)
class FinishedRun:
    """A run, whose trials are read."""

    problem: Problem
    store: RunStore
    signal: Signal

    @classmethod
    def read(cls, path: Path) -> "FinishedRun":
        """Reads it from its folder. Raises UserError where there is none."""
        if not (path / CONFIG).is_file():
            raise UserError(f"{path}: is no run: there is no {CONFIG} in it; expected a folder like results/runs/NAME")
        config, folder = Config.read(path / CONFIG), RunFolder(path)
        with trust_code(config.trust):
            problem = open_problem(config, str(path / CONFIG))
        with folder.reading():
            study = folder.open_study(config.search.storage, problem.tasks.directions)
        store = RunStore(folder, study, problem.tasks.items("search"))
        return cls(problem, store, Signal(problem.tasks, store, config.search.signal))

    @property
    def folder(self) -> RunFolder:
        """The run's folder."""
        return self.store.folder

    @cached_property
    def sides(self) -> dict[str, list[list[str]]]:
        """The search and the test items of each task."""
        tasks = self.problem.tasks
        return {each.name: [[item.fingerprint for item in side] for side in (each.search, each.test)] for each in tasks}

    def merges(self) -> Iterator[Merge]:
        """The merges of several models that satisfy the constraints and were scored in full."""
        for trial in t.contenders(self.store.study):
            scores = self.signal.item_scores(trial)
            if scores is not None and not t.violation(trial) and t.recipe_of(trial).only_model is None:
                yield Merge(self, trial, scores)


def remerge(runs: Sequence[PathName], out: PathName, top: int = TOP, say: Say = silent) -> list[Path]:
    """Writes merges of finished runs, and a config that searches for the best merge of them.

    The merges go to the folder ``out`` without its ending. Tasks, split and search are those of the first run.

    Args:
        runs: the folders of the runs, which have the same search and test items.
        out: the config.
        top: how many merges.
        say: is told of each merge.

    Returns:
        The folders of the merges.

    Raises:
        UserError: something exists where it would be written, the runs have different items, or too few merges.
    """
    config, folder = Path(out), Path(out).with_suffix("")
    if config.exists() or folder == config:
        raise UserError(f"{config}: expected a new file that ends in .yml")
    check_output(folder)
    read = [FinishedRun.read(Path(run)) for run in runs]
    _check_same_items(read)
    chosen = different(sorted((merge for run in read for merge in run.merges()), key=lambda merge: merge.rank), top)
    paths = [_write(merge, folder / merge.name, say) for merge in chosen]
    write_text(config, dump_yaml(_config(read[0].problem.config, paths, folder.name)))
    return paths


def different(merges: Sequence[Merge], count: int) -> list[Merge]:
    """Merges that differ, of those with the best ranks: the best one, then always the one farthest from those before.

    Merges are as far apart as what the items add to their objectives. Raises UserError where there are too few.
    """
    unique = list({merge.trial.user_attrs[t.PHENOTYPE]: merge for merge in reversed(merges)}.values())[::-1]
    if len(unique) < count:
        raise UserError(f"found {len(unique)} different merges that were scored in full, expected {count} or more")
    pool = unique[: POOL * count]
    chosen = [0]
    while len(chosen) < count:
        distances = [min(np.abs(each.scores - pool[other].scores).sum() for other in chosen) for each in pool]
        farthest = max((index for index in range(len(pool)) if index not in chosen), key=lambda i: (distances[i], -i))
        chosen.append(farthest)
    return [pool[index] for index in sorted(chosen)]


def _check_same_items(runs: Sequence[FinishedRun]) -> None:
    first, *others = runs
    for other in others:
        if other.sides != first.sides:
            raise UserError(
                f"{other.folder.path}: has other search or test items than {first.folder.path}: its scores do not "
                "compare, and test items of one run were search items of the other; expected runs with the same tasks "
                "and the same split"
            )


def _write(merge: Merge, path: Path, say: Say) -> Path:
    say(f"{path}: {t.label_of(merge.trial)} of {merge.run.folder.path}")
    problem, recipe = merge.run.problem, t.recipe_of(merge.trial)
    with trust_code(problem.config.trust):
        merge_recipes(from_checkpoints(recipe), path, MergeOptions())
    searched = searched_items(problem.tasks, problem.references)
    Origin(str(merge.run.folder.path), merge.trial.number, Checkpoint(str(path)).digest(), searched).write(path)
    return path


def _config(config: Config, models: Sequence[Path], name: str) -> Mapping[str, Any]:
    """A config with the tasks and the search of ``config`` and a linear merge of models in the folder ``name``."""
    data = {key: value for key, value in config.dump().items() if key not in ("soup", "recipe")}
    recipe = {
        "merge_method": "linear",
        "parameters": {"weight": WEIGHTS, "normalize": False},
        "models": [{"model": f"{name}/{model.name}"} for model in models],
    }
    if given := config.recipe.get("tokenizer"):  # a merge that is a single model has that model's
        recipe["tokenizer"] = {key: given[key] for key in ("source", "missing", "k") if key in given}
    return {"recipe": recipe, **data, "output": {**data["output"], "name": name}}
