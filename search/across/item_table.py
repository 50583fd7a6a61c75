"""The items of a run as a data frame: documents, and the scores of candidates, read from the run's folder alone."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from optuna.study import Study
from optuna.trial import FrozenTrial
from torch import Tensor

from mergesearch.errors import UserError, listed
from mergesearch.evaluators import Item
from mergesearch.search.across.documents import COLUMNS, DOCUMENTS
from mergesearch.search.study import trials as t
from mergesearch.search.study.answers import ItemKey, load_answers
from mergesearch.search.study.run_folder import RunFolder
from mergesearch.search.study.table_file import read_table
from mergesearch.search.verdict.result import SIDES

if TYPE_CHECKING:
    from pandas import DataFrame

Items = Mapping[str, Mapping[str, Sequence[Item]]]
"""By side and task."""


def item_table(folder: RunFolder, study: Study, numbers: Sequence[int], answers: bool = False) -> "DataFrame":
    """A row for each used item, with a column for each of these trials, named as in tables.

    The columns before have the task, the split, the item's id, the question, the right answer and the choices. A
    trial's column has its scores: a number, a list for tasks that take several numbers of an item, NaN where the item
    was not scored; with ``answers`` what it answered to test items instead, empty where that is not known. Raises
    UserError for an unknown trial, and where files are damaged or missing.
    """
    from pandas import DataFrame

    columns, _ = read_table(folder.path / DOCUMENTS, COLUMNS)
    trials = study.get_trials(deepcopy=False)
    if unknown := [str(number) for number in numbers if not 0 <= number < len(trials)]:
        raise UserError(f"{folder.path}: has no trial {listed(unknown)}, its trials are 0 to {len(trials) - 1}")
    keys = list(zip(columns["split"], columns["task"], columns["item"], strict=True))
    items = _items(keys)
    for trial in (trials[number] for number in dict.fromkeys(numbers)):
        found = _answers(folder, trial) if answers else dict(_scores(folder, trial, trials, items))
        columns[t.label_of(trial)] = [found.get(key, "" if answers else float("nan")) for key in keys]
    return DataFrame(columns)


def _items(keys: Sequence[tuple[str, str, str]]) -> Items:
    items: dict[str, dict[str, list[Item]]] = {side: {} for side in SIDES}
    for side, task, item in keys:
        items[side].setdefault(task, []).append(Item(item, task, ""))
    return items


def _answers(folder: RunFolder, trial: FrozenTrial) -> dict[tuple[str, str, str], str]:
    given: Mapping[ItemKey, str] = load_answers(
        folder.path, t.side_name("test", str(trial.user_attrs.get(t.PHENOTYPE)))
    )
    return {("test", *key): answer for key, answer in given.items()}


def _scores(
    folder: RunFolder, trial: FrozenTrial, trials: Sequence[FrozenTrial], items: Items
) -> Iterator[tuple[tuple[str, str, str], Any]]:
    """The scores of a trial's model by side, task and item."""
    phenotype = trial.user_attrs.get(t.PHENOTYPE)
    same = [each for each in trials if phenotype and each.user_attrs.get(t.PHENOTYPE) == phenotype]
    files = {"search": [t.scores_name(each.number) for each in [trial, *same]], "test": []}
    for side, names in files.items():
        tasks: dict[str, Tensor] = {}
        for name in filter(folder.has_scores, [*names, t.side_name(side, str(phenotype))]):
            loaded, _ = folder.load_scores_and_margins(name, items[side], partial=True)
            tasks = {**loaded, **tasks}
        for task, scores in tasks.items():
            for item, score in zip(items[side][task], scores.tolist(), strict=True):
                yield (side, task, item.id), score
