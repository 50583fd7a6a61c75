"""Writes what ``lm_eval --log_samples`` writes: a file of results, and a file of samples for each task.

The samples are of instances that were scored here; what is made of them is lm-eval's. See ``sample_files``, which reads
them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lm_eval.api.metrics import mean, stderr_for_metric
from lm_eval.utils import handle_non_serializable, hash_string, sanitize_list

from mergesearch.files import write_text

CLOSED_FORM = 1
"""Standard errors are those with a closed form, which no draw depends on: lm-eval asks for more than no draws."""


@dataclass(frozen=True)
class SubtaskLog:
    """What a model answered to documents of one task of lm-eval.

    Attributes:
        name: the task.
        samples: what is known of each document, as lm-eval has it.
        task: lm-eval's task object.
        filter: the filter of the answers.
    """

    name: str
    samples: Sequence[Mapping[str, Any]]
    task: Any
    filter: str

    @property
    def results(self) -> dict[str, Any]:
        """Each metric over the documents, with its standard error where that has a closed form."""
        found: dict[str, Any] = {"alias": self.name, "sample_len": len(self.samples)}
        for metric in self.samples[0]["metrics"]:
            aggregation = self.task.aggregation().get(metric, mean)
            values = [sample[metric] for sample in self.samples]
            deviation = stderr_for_metric(aggregation, CLOSED_FORM) if aggregation is mean else None
            found[f"{metric},{self.filter}"] = aggregation(values)
            found[f"{metric}_stderr,{self.filter}"] = deviation(values) if deviation and len(values) > 1 else "N/A"
        return found


def sample_of(number: int, doc: Any, instances: Sequence[Any], results: Mapping[str, Any], log: tuple[Any, str]) -> Any:
    """What lm-eval writes of a document.

    Args:
        number: the number of the document.
        doc: the document.
        instances: its instances, which are answered and filtered.
        results: the document's metrics.
        log: lm-eval's task object, and the filter of the answers.
    """
    task, chosen = log
    target = task.doc_to_target(doc)
    arguments = [{f"arg_{n}": part for n, part in enumerate(instance.args)} for instance in instances]
    asked = json.dumps(instances[0].doc, indent=2, default=handle_non_serializable, ensure_ascii=False)
    return {
        "doc_id": number,
        "doc": doc,
        "target": str(target),
        "arguments": {f"gen_args_{n}": each for n, each in enumerate(arguments)},
        "resps": sanitize_list([instance.resps for instance in instances]),
        "filtered_resps": sanitize_list([instance.filtered_resps[chosen] for instance in instances]),
        "filter": chosen,
        "metrics": list(results),
        "doc_hash": hash_string(asked),
        "prompt_hash": hash_string(instances[0].arguments[0]),
        "target_hash": hash_string(str(target)),
        **results,
    }


def write_logs(folder: Path, model: str, date: str, logs: Sequence[SubtaskLog], groups: Mapping[str, Any]) -> None:
    """Writes the logs of one model.

    Args:
        folder: the folder of the files.
        model: what the model is called.
        date: as in the names of lm-eval's files, ``2026-01-31T12-30-59``.
        logs: of each task.
        groups: for each group the names of its tasks, and its metrics by name.
    """
    for log in logs:
        lines = [json.dumps(each, default=handle_non_serializable, ensure_ascii=False) for each in log.samples]
        write_text(folder / f"samples_{log.name}_{date}.jsonl", "".join(f"{line}\n" for line in lines))
    content = json.dumps(_results(model, logs, groups), indent=2, default=handle_non_serializable, ensure_ascii=False)
    write_text(folder / f"results_{date}.json", content + "\n")


def _results(model: str, logs: Sequence[SubtaskLog], groups: Mapping[str, Any]) -> dict[str, Any]:
    """The content of the file of results."""
    combined = {name: {"alias": name, **group["metrics"]} for name, group in groups.items()}
    configs = {log.name: log.task.dump_config() for log in logs}
    return {
        "results": {**combined, **{log.name: log.results for log in logs}},
        **({"groups": combined} if combined else {}),
        "group_subtasks": {name: group["tasks"] for name, group in groups.items()} or {log.name: [] for log in logs},
        "configs": configs,
        "versions": {log.name: log.task.VERSION for log in logs},
        "n-shot": {log.name: configs[log.name].get("num_fewshot") or 0 for log in logs},
        "higher_is_better": {log.name: dict(log.task.higher_is_better()) for log in logs},
        "n-samples": {log.name: {"original": len(log.task.eval_docs), "effective": len(log.samples)} for log in logs},
        "config": {"model": "mergesearch", "model_args": {"pretrained": model}, "limit": None},
        "model_source": "mergesearch",
        "model_name": model,
        "model_name_sanitized": folder_name(model),
        "task_hashes": {log.name: _hash(log.samples) for log in logs},
    }


def folder_name(model: str) -> str:
    """A model's name as the name of a folder."""
    return "".join(sign if sign.isalnum() or sign in "-_." else "_" for sign in model).strip(".") or "model"


def _hash(samples: Sequence[Mapping[str, Any]]) -> str:
    """lm-eval's hash of what was asked."""
    return str(hash_string("".join(each["doc_hash"] + each["prompt_hash"] + each["target_hash"] for each in samples)))
