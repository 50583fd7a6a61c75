"""What the tests of lm_eval share."""

from pathlib import Path
from typing import Any

from mergesearch.evaluators import Shared
from mergesearch.evaluators.lm_eval.lm_eval import LmEval, LmEvalOptions


def open_lm_eval(tasks: Path | None, group: str | None = None, **options: Any) -> LmEval:
    return LmEval(LmEvalOptions(**options), Shared(include_path=tasks, group=group))
