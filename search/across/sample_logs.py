"""What a model scored, from the files of ``lm_eval --log_samples``."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from mergesearch.errors import UserError, in_words, listed
from mergesearch.evaluators import content_hash
from mergesearch.evaluators.lm_eval.sample_files import Sample, TaskLog, read_logs
from mergesearch.search.across.scored_task import Asked, Measured, ScoredTask
from mergesearch.search.statistics import Array


def logged(path: Path, metrics: Sequence[str] = (), group: str | None = None) -> Measured:
    """The scores of one model's logs: of each task those of its first metric, or of those that are named.

    ``metrics`` are ``NAME`` or ``NAME,FILTER``; ``group`` is a field of the documents, whose equal values count once.
    Raises UserError where there are no scores.
    """
    notes: list[str] = []
    tasks = {(one.name, one.metric): one for log in read_logs(path) for one in _scored(log, metrics, group, notes)}
    if not tasks:
        raise UserError(f"{path}: no task can be read: {'; '.join(notes) or 'its files of samples are empty'}")
    return Measured(str(path), tasks, notes)


def _scored(log: TaskLog, wanted: Sequence[str], group: str | None, notes: list[str]) -> Iterator[ScoredTask]:
    chosen = [label for label in log.metrics if {label, label.partition(",")[0]} & set(wanted)] if wanted else []
    if wanted and not chosen:
        notes.append(f"{log.file}: has no metric {listed(wanted)}; its metrics are {listed(log.metrics)}")
    for label in chosen or ([] if wanted else list(log.metrics)[:1]):
        try:
            yield _task(log, label, group)
        except UserError as error:
            notes.append(f"{log.file}: metric {label}: {error}")
        except (TypeError, ValueError, KeyError, IndexError) as error:
            notes.append(f"{log.file}: metric {label} has no numbers for each document: {in_words(error)}")


def _task(log: TaskLog, label: str, group: str | None) -> ScoredTask:
    samples, metric = log.metrics[label], log.document_metric(label)
    if not metric.has_contributions:
        raise UserError("is no mean over items, so its difference has no interval")
    ids = [sample.id for sample in samples]
    if len(set(ids)) < len(ids):
        raise UserError("a document stands there twice: the file has samples of several evaluations")
    results = [sample.data[label.partition(",")[0]] for sample in samples]
    weights = [metric.weight(result) for result in results]
    rows = torch.tensor([metric.row(result) for result in results], dtype=torch.float64)
    if not bool(torch.isfinite(rows).all() | (rows.shape[1] > 1)):
        raise UserError("some documents have no number")

    def contribute(places: Sequence[int]) -> Array:
        chosen: Array = metric.contributions(rows[list(places)], [weights[n] for n in places]).numpy()
        return chosen

    name_of = _cluster(group)
    items = [_asked(sample, name_of, weight, label) for sample, weight in zip(samples, weights, strict=True)]
    version = {"version": log.version} if log.version else {}
    return ScoredTask(log.task, label, log.higher_is_better(label), items, contribute, version)


def _cluster(group: str | None) -> Callable[[Sample], str]:
    def name_of(sample: Sample) -> str:
        if group is None:
            return sample.document
        document = sample.data["doc"]
        if not isinstance(document, dict) or group not in document:
            raise UserError(f"group: document {sample.id} has no field {group!r}")
        return content_hash(document[group])

    return name_of


def _asked(sample: Sample, cluster: Callable[[Sample], str], weight: float, metric: str) -> Asked:
    document = content_hash([sample.document, sample.data["target_hash"]])
    return Asked(
        sample.id,
        cluster(sample),
        document,
        sample.prompt,
        weight,
        sample.question,
        sample.right,
        sample.answer(metric),
    )
