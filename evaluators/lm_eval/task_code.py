"""Code that tasks bring along, which lm-eval runs while it reads a task's YAML: it runs only where it is trusted.

This is what ``!function`` names, and metrics of the library ``evaluate``, which are scripts of a folder or of the
Hugging Face hub. The tasks that lm-eval itself has are installed code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import lm_eval
import lm_eval.api.task
from lm_eval.api.registry import metric_registry
from lm_eval.tasks import _yaml_loader

from mergesearch.trust import require_trust

INSTALLED = Path(lm_eval.__file__).parent.resolve()


@contextmanager
def only_trusted_code(task: str) -> Iterator[None]:
    """Within the context, lm-eval raises UserError before it runs code of a task that is not trusted."""
    # lm-eval has no public hook before it imports what ``!function`` names.
    function, metric = _yaml_loader._import_func_in_yml, lm_eval.api.task.get_metric
    with (
        mock.patch.object(_yaml_loader, "_import_func_in_yml", _guarded_function(function, task)),
        mock.patch.object(lm_eval.api.task, "get_metric", _guarded_metric(metric, task)),
    ):
        yield


def _guarded_function(load: Callable[[str, Path], Any], task: str) -> Callable[[str, Path], Any]:
    def guarded(name: str, folder: Path) -> Any:
        if not folder.resolve().is_relative_to(INSTALLED):
            require_trust(_described(name, folder), f"task {task!r}")
        return load(name, folder)

    return guarded


def _described(name: str, folder: Path) -> str:
    """The function and its file: lm-eval looks for ``utils.process`` in ``utils.py`` beside the YAML file first."""
    module, _, function = name.rpartition(".")
    file = folder / f"{module.replace('.', '/')}.py"
    return f"{function} of {file}" if file.exists() else f"{function} of the Python module {module}"


def _guarded_metric(load: Callable[..., Any], task: str) -> Callable[..., Any]:
    def guarded(name: str, hf_evaluate_metric: bool = False) -> Any:
        if hf_evaluate_metric or name not in metric_registry:
            require_trust(f"the metric {name!r} of the library evaluate, a script", f"task {task!r}")
        return load(name, hf_evaluate_metric)

    return guarded
