"""What the tests of whole runs share: a run, its course, and a run that is killed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from optuna.study import Study
from optuna.trial import Trial
from torch import Tensor

from mergesearch.evaluators.tasks.bits_per_byte import BitsPerByte
from mergesearch.search.config import Config
from mergesearch.search.problem.problem import open_job
from mergesearch.search.run import run
from mergesearch.search.statistics import Estimate
from mergesearch.search.study import trials as t
from mergesearch.search.study.run_folder import RunFolder
from mergesearch.search.verdict.result import Row, Verdict

Data = dict[str, Any]
OWNERS: dict[str, Any] = {
    "score": BitsPerByte,
    "targets": BitsPerByte,
    "tell": Study,
    "suggest_float": Trial,
    "save_scores": RunFolder,
    "write_json": RunFolder,
}
"""Where a run can be killed, by the method's name."""


def go(data: Data, results: Path) -> Verdict:
    return run(open_job(Config.model_validate(data), "config"), results)


def study_of(folder: Path) -> Study:
    return RunFolder(folder).open_study(None)


def course(folder: Path) -> list[tuple[Any, ...]]:
    """What the finished trials were and scored, in order."""
    return [
        (t.kind_of(trial), trial.user_attrs.get(t.NAME), trial.params, trial.user_attrs[t.RECIPE], trial.value)
        for trial in t.finished(study_of(folder))
    ]


class Killed(BaseException):
    """Ends a run as SIGKILL would: nothing of ours gets to clean up after it."""


def killed_at(call: int, function: Callable[..., Any]) -> Callable[..., Any]:
    calls = 0

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            raise Killed
        return function(*args, **kwargs)

    return counted


def killed(monkeypatch: pytest.MonkeyPatch, place: str, call: int, data: Data, results: Path) -> None:
    """Begins the run, or goes on with it, until it is killed at that call of that place."""
    owner = OWNERS[place]
    with monkeypatch.context() as patch:
        patch.setattr(owner, place, killed_at(call, getattr(owner, place)))
        with pytest.raises(Killed):
            go(data, results)


def row(name: str, trial: int) -> Row:
    """A row of a verdict's table."""
    return Row(name, trial, "ties", Estimate(0.5, 0.4, 0.6), Estimate(0.5, 0.4, 0.6), {})


def save_fine_tunes(folder: Path, make: Callable[[], Any], tokenizer: Any, spread: float) -> None:
    """Writes base, one and two: a new model, and twice the same with so much noise on its weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = make()
        start = {name: value.clone() for name, value in model.state_dict().items()}
        for name in ("base", "one", "two"):
            amount = spread * (name != "base")
            model.load_state_dict({key: _noisy(value, amount) for key, value in start.items()})
            model.save_pretrained(folder / name)
            tokenizer.save_pretrained(folder / name)


def _noisy(value: Tensor, amount: float) -> Tensor:
    return value + amount * torch.randn_like(value) if value.is_floating_point() else value
