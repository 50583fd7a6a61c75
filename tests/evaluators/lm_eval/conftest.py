"""A quick index of lm-eval's own tasks."""

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def few_builtin_tasks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the tasks in one of lm-eval's folders. Reading all of them takes seconds."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    if "slow" not in request.keywords:
        folder = Path(lm_eval.__file__).parent / "tasks" / "hellaswag"
        manager = TaskManager(include_path=str(folder), include_defaults=False)
        monkeypatch.setattr("mergesearch.evaluators.lm_eval.task_loading.builtin_manager", lambda: manager)
