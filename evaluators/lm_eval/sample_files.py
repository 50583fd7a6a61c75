"""Files of ``lm_eval --log_samples``: what a model was asked, what it answered, and each document's metrics.

A folder of lm-eval 0.4.11 and later has ``samples_TASK_DATE.jsonl``, one line for each document and filter of the
answers: ``doc_id``, ``doc``, ``target``, ``arguments``, ``resps``, ``filtered_resps``, ``filter``, ``metrics``,
``doc_hash``, ``prompt_hash``, ``target_hash``, and under the name of each metric the document's result. The file
``results_DATE.json`` beside it, where there is one, tells the task's version and what its metrics are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mergesearch.errors import UserError, first_line, listed
from mergesearch.evaluators.data.content import content_hash
from mergesearch.reading import check_file, read_json_object

if TYPE_CHECKING:
    from mergesearch.evaluators.lm_eval.metrics import DocumentMetric

NAME = re.compile(r"samples_(?P<task>.+?)(?:_(?P<date>\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d(?:\.\d+)?))?\.jsonl")
NEEDED = ("doc_id", "doc", "target", "arguments", "filtered_resps", "filter", "metrics", "doc_hash", "target_hash")
"""The keys of a line that are read; ``doc_hash`` and others are there since lm-eval 0.4.3."""


@dataclass(frozen=True)
class Sample:
    """One document under one filter: what lm-eval wrote of it."""

    data: Mapping[str, Any]

    @property
    def id(self) -> str:
        """The number of the document."""
        return str(self.data["doc_id"])

    @property
    def document(self) -> str:
        """lm-eval's hash of the document."""
        return str(self.data["doc_hash"])

    @cached_property
    def asked(self) -> list[list[Any]]:
        """The arguments of each request: the prompt, and the answer that is scored or the settings of generation."""
        requests = self.data["arguments"]
        return [list(each.values()) for each in requests.values()] if isinstance(requests, dict) else list(requests)

    @property
    def question(self) -> str:
        """The prompt of the first request."""
        return str(self.asked[0][0]) if self.asked and self.asked[0] else ""

    @property
    def prompt(self) -> str:
        """A hash of all that the model was asked."""
        return content_hash(self.asked)

    @property
    def right(self) -> str:
        """The right answer: of choices its text."""
        target, choices = str(self.data["target"]), self._choices
        return choices[int(target)] if target.isdigit() and int(target) < len(choices) else target

    def answer(self, metric: str) -> str:
        """What the model answered, as a metric reads it: its text, or the most likely choice."""
        given, choices = self.data["filtered_resps"], self._choices
        if choices:
            logs = [float(each[0]) for each in given[: len(choices)]]
            lengths = [max(1, len(choice.removeprefix(" "))) if "norm" in metric else 1 for choice in choices]
            return choices[max(range(len(choices)), key=lambda n: logs[n] / lengths[n])]
        only = given[0] if isinstance(given, list) and len(given) == 1 else given
        return only if isinstance(only, str) else json.dumps(only, ensure_ascii=False)

    @cached_property
    def _choices(self) -> list[str]:
        """The texts between which the model chose; empty where it did not."""
        given, asked = self.data["filtered_resps"], [each for each in self.asked if each and each[0]]
        is_choice = isinstance(given, list) and len(asked) > 1 and all(_is_logprob(each) for each in given)
        if not is_choice or not all(len(each) > 1 and isinstance(each[1], str) for each in asked):
            return []
        answers = [each[1] for each in asked]
        return answers if len(set(answers)) > 1 else [each[0] for each in asked]


def _is_logprob(response: Any) -> bool:
    return isinstance(response, list) and len(response) == 2 and str(response[1]) in ("True", "False")


@dataclass(frozen=True)
class TaskLog:
    """The file of one task.

    ``metrics`` has the samples by metric, ``NAME`` or ``NAME,FILTER`` where the answers were filtered in several ways.
    ``results`` is the content of the file of results beside it; empty without one.
    """

    task: str
    file: Path
    metrics: Mapping[str, Sequence[Sample]]
    results: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def version(self) -> str | None:
        """The task's version; None where it is not known."""
        version = self.results.get("versions", {}).get(self.task)
        return None if version is None else str(version)

    def higher_is_better(self, metric: str) -> bool:
        """The direction of a metric: what the task says of it, and else what lm-eval does; upwards if nothing does."""
        from lm_eval.api.registry import is_higher_better

        name = metric.partition(",")[0]
        said = self.results.get("higher_is_better", {}).get(self.task, {}).get(name)
        return said if isinstance(said, bool) else is_higher_better(name) is not False

    def document_metric(self, metric: str) -> DocumentMetric:
        """How a metric follows from the documents' results: as the task says, or as lm-eval does; else their mean."""
        from lm_eval.api.metrics import mean
        from lm_eval.api.registry import get_aggregation, get_metric_aggregation

        from mergesearch.evaluators.lm_eval.metrics import AGGREGATIONS, metric_of

        name = metric.partition(",")[0]
        entries = self.results.get("configs", {}).get(self.task, {}).get("metric_list") or []
        said = next((each.get("aggregation") for each in entries if each.get("metric") == name), None)
        aggregation = get_aggregation(said) if said in AGGREGATIONS else get_metric_aggregation(name)
        return metric_of(aggregation or mean, [each.data[name] for each in self.metrics[metric]])


def has_logs(path: Path) -> bool:
    """Whether this is a file of samples, or a folder with some, at any depth."""
    return path.suffix == ".jsonl" and path.is_file() if not path.is_dir() else any(path.rglob("samples_*.jsonl"))


def read_logs(path: Path) -> list[TaskLog]:
    """The logs of one model, by task: of a file, or of all files of a folder, of each task the latest.

    Raises UserError where the files are of several folders, or are not what lm-eval writes.
    """
    files = [path] if path.is_file() else sorted(path.rglob("samples_*.jsonl"))
    folders = {file.parent for file in files}
    if len(folders) > 1:
        raise UserError(f"{path}: has samples in {len(folders)} folders: {listed(map(str, folders))}; name one of them")
    latest = {_named(file)[0]: file for file in sorted(files, key=lambda file: _named(file)[1])}
    return [_log(task, file) for task, file in sorted(latest.items())]


def _named(file: Path) -> tuple[str, str]:
    """The task and the date in a file's name."""
    found = NAME.fullmatch(file.name)
    return (found["task"], found["date"] or "") if found else (file.stem, "")


def _log(task: str, file: Path) -> TaskLog:
    beside = file.with_name(f"results_{_named(file)[1]}.json")
    samples = list(_samples(file))
    filters = {sample.data["filter"] for sample in samples}
    metrics: dict[str, list[Sample]] = {}
    for sample in samples:
        for metric in sample.data["metrics"]:
            label = f"{metric},{sample.data['filter']}" if len(filters) > 1 else str(metric)
            metrics.setdefault(label, []).append(sample)
    return TaskLog(task, file, metrics, read_json_object(beside) if beside.is_file() else {})


def _samples(file: Path) -> Iterator[Sample]:
    """One a line. Raises UserError, which names the line, where it is not lm-eval's."""
    check_file(file)
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                data = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise UserError(f"{file}: line {number} is not JSON: {first_line(error)}") from None
            missing = [key for key in NEEDED if key not in data] if isinstance(data, dict) else NEEDED
            lacking = missing or [metric for metric in data["metrics"] if metric not in data]
            if lacking:
                raise UserError(
                    f"{file}: line {number} has no {listed(map(repr, lacking))}; expected a file of "
                    "lm_eval --log_samples, of lm-eval 0.4.3 or later"
                )
            yield Sample(data)
