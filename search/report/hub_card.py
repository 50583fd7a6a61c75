"""The model card of a run's model, with verdict and scores, and its scores in the Hub's ``.eval_results``.

Only test items count as a result: they alone are in the metadata. The objective on the search items, by which the
model was chosen, is in the table, and is called so.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mergesearch.files import remove, write_text
from mergesearch.merge_ops.checkpoint.side_files import CARD
from mergesearch.merge_ops.output.card import Card, Evaluation
from mergesearch.merge_ops.output.folder import card_of
from mergesearch.parsing import dump_yaml
from mergesearch.search.across.finalists import Finalists, FinalTask
from mergesearch.search.config import Config
from mergesearch.search.report.run_log import installed_version
from mergesearch.search.report.table_text import as_markdown
from mergesearch.search.verdict.formatting import interval
from mergesearch.search.verdict.result import CandidateRow, Verdict, shown_name
from mergesearch.search.verdict.wording import looks_in_words, notes_in_words, shown_baselines
from mergesearch.text import as_heading

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, EvalResultEntry

EVAL_RESULTS = ".eval_results"
"""The folder of scores that the Hub reads."""
DIGITS = 4


def write_hub_card(model: Path, run: Finalists, verdict: Verdict, row: CandidateRow, config: Config) -> None:
    """Writes the card of a run's model, which is in the folder ``model``, and its scores, in place of those there.

    Args:
        model: the folder of the candidate's model, as it was merged.
        run: the run's scores on the test items.
        verdict: the run's verdict.
        row: the candidate.
        config: the run's config.
    """
    card = card_of(model)
    found = _Found(card, run, verdict, row, config)
    write_text(model / CARD, card.of(found.evaluation))
    remove(model / EVAL_RESULTS)
    for name, entry in found.entries():
        write_text(model / EVAL_RESULTS / f"{name}.yaml", _yaml(entry))


@dataclass(frozen=True)
class _Found:
    """A candidate of a run, for its card."""

    card: Card
    run: Finalists
    verdict: Verdict
    row: CandidateRow
    config: Config

    @cached_property
    def _paths(self) -> list[str]:
        return list(dict.fromkeys(_texts(self.config.recipe)))

    def _public(self, text: str) -> str:
        return self.card.parents.public(text, self._paths)

    @property
    def evaluation(self) -> Evaluation:
        """What the card says of the run."""
        sections = f"{self._scores()}\n\n{self._search()}"
        datasets = dict.fromkeys(source.dataset for task in self.run.about.tasks for source in task.sources)
        title, sentence = self.config.output.name, self._public(self.verdict.sentence)
        return Evaluation(title, sentence, sections, list(self._results()), list(datasets))

    def _scores(self) -> str:
        baselines = [row for row in shown_baselines(self.verdict) if row.name != self.row.name]
        others = [] if self.row.name == self.verdict.winner.name else [self.verdict.winner]
        table = as_markdown([self._row(row) for row in [self.row, *others, *baselines]])
        return (
            f"## Scores\n\nOn {self.verdict.test_items:,} test items, which the search did not use, with 95 % "
            "intervals. The last column is the objective on the search items, by which the search chose: it is no "
            "result.\n\n" + table
        ).strip()

    def _row(self, row: CandidateRow) -> dict[str, object]:
        mark = " (this model)" if row.name == self.row.name else ""
        intervals = self.run.estimates(row.trial, self.config.search.seed) if self._has(row) else {}
        tasks = {
            f"{task.name}, {task.metric}": interval(intervals[task.name]) if intervals else _value(row, task.name)
            for task in self.run.about.tasks
        }
        name = self._public(shown_name(row)) + mark
        return {"": name, "objective": interval(row.test), **tasks, "search items": interval(row.search)}

    def _has(self, row: CandidateRow) -> bool:
        return str(row.trial) in self.run.columns

    def _search(self) -> str:
        verdict = self.verdict
        notes = [as_heading(self._public(note)) for note in notes_in_words(verdict, with_front=False)]
        counts = f"{verdict.trials:,} models ({verdict.stopped:,} of them stopped early)"
        how = (
            f"mergesearch {as_heading(installed_version())} scored {counts} on "
            f"{verdict.items_spent:,} search items in all, with the seed {self.config.search.seed}, and compared the "
            f"best with all baselines on {verdict.test_items:,} test items. {looks_in_words(verdict.test_looks - 1)}"
        )
        return "## How it was made\n\n" + "\n\n".join([how, *notes])

    def _results(self) -> "Iterator[EvalResult]":
        """The candidate's scores on the test items."""
        from huggingface_hub import EvalResult

        kind = self.card.task or "text-generation"
        for task, value in self._tested():
            source = task.sources[0] if len(task.sources) == 1 else None
            items = self.run.items(task.name)
            yield EvalResult(
                task_type=kind,
                dataset_type=_dataset(task) or _slug(task.name),
                dataset_name=f"{task.name}, {items} held-out test items",
                dataset_config=source.config if source else None,
                dataset_split=source.split if source else None,
                dataset_args={"items": items, "side": "test", "task": task.name},
                metric_type=task.metric.partition(",")[0],
                metric_value=value,
                metric_name=f"{task.metric} on the test items",
            )

    def entries(self) -> "Iterator[tuple[str, EvalResultEntry]]":
        """The name of a file and its entry, for each task of one data set on the Hub."""
        from huggingface_hub import EvalResultEntry

        for task, value in self._tested():
            dataset, items = _dataset(task), self.run.items(task.name)
            if dataset is None:
                continue
            part = task.sources[0].task if len(task.sources) == 1 else task.name
            notes = f"{task.metric} on {items} held-out test items, not on the whole data set; by mergesearch"
            yield _slug(task.name), EvalResultEntry(dataset_id=dataset, task_id=part, value=value, notes=notes)

    def _tested(self) -> list[tuple[FinalTask, float]]:
        values = self.run.values(self.row.trial) if self._has(self.row) else {}
        return [(task, round(values[task.name], DIGITS)) for task in self.run.about.tasks if task.name in values]


def _value(row: CandidateRow, task: str) -> str:
    values = row.tasks.get(task, {})
    return f"{values['test']:.3f}" if "test" in values else ""


def _dataset(task: FinalTask) -> str | None:
    """The one data set of a task; None where it has none, or several."""
    names = {source.dataset for source in task.sources}
    return names.pop() if len(names) == 1 else None


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-") or "task"


def _yaml(entry: "EvalResultEntry") -> str:
    from huggingface_hub import eval_result_entries_to_yaml

    return dump_yaml(eval_result_entries_to_yaml([entry]))


def _texts(value: Any) -> Iterator[str]:
    """The texts in a mapping or list."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list | tuple):
        parts: Sequence[Any] = list(value.values()) if isinstance(value, dict) else value
        for each in parts:
            yield from _texts(each)
