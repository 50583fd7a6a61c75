"""What the real ``lm_eval`` command line prints, for several calls of it in one process."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SCRIPT = """
import functools, json, sys
import lm_eval.evaluator_utils
from lm_eval.tasks import TaskManager
lm_eval.evaluator_utils.stderr_for_metric = lambda **_: None  # 100,000 resamples take minutes
TaskManager.__init__ = functools.partialmethod(TaskManager.__init__, include_defaults=False)  # seconds of YAML
from lm_eval.__main__ import cli_evaluate
for arguments in json.load(sys.stdin):
    sys.argv[1:] = arguments
    cli_evaluate()
"""


@dataclass(frozen=True)
class Printed:
    """values: by task and 'metric,filter'. items: each document's, by its number."""

    values: dict[str, dict[str, Any]]
    items: dict[str, dict[str, dict[int, Any]]]


def run(arguments: Sequence[str], calls: dict[str, Sequence[str]], out: Path, cache: Path) -> dict[str, Printed]:
    """arguments: of all calls. calls: the arguments of each alone."""
    asked = [["run", *arguments, "--log_samples", "--output_path", str(out / name), *calls[name]] for name in calls]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        input=json.dumps(asked),
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(cache), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return {name: _read(out / name) for name in calls}


def _read(out: Path) -> Printed:
    (results,) = out.rglob("results_*.json")
    items = {path.name.partition("_20")[0].removeprefix("samples_"): _items(path) for path in out.rglob("*.jsonl")}
    return Printed(json.loads(results.read_text())["results"], items)


def _items(path: Path) -> dict[str, dict[int, Any]]:
    items: dict[str, dict[int, Any]] = {}
    for line in path.read_text().splitlines():
        sample = json.loads(line)
        for metric in sample["metrics"]:
            items.setdefault(f"{metric},{sample['filter']}", {})[sample["doc_id"]] = sample[metric]
    return items
