"""Tasks of a first config: names of lm-eval, or texts."""

from glob import glob, has_magic
from pathlib import Path
from typing import Any

from mergesearch.errors import UserError
from mergesearch.evaluators.lm_eval.task_loading import usual_metric
from mergesearch.say import Say, silent
from mergesearch.search.draft.draft import path_in

KNOWN = ("arc_easy", "arc_challenge", "hellaswag", "piqa", "winogrande", "boolq", "gsm8k", "mmlu", "ifeval")
"""Tasks that are shown to who does not know which."""


def task_entry(text: str, file: Path, include_path: str | None, say: Say = silent) -> dict[str, Any]:
    """The entry of a task: ``NAME`` or ``NAME:METRIC`` of lm-eval, or text files or a pattern of them.

    ``say`` is told what may take seconds. Raises UserError for what is neither, with the nearest name.
    """
    if has_magic(text) or Path(text).is_file():
        if not glob(text, recursive=True):  # noqa: PTH207 - as the evaluator does
            raise UserError(f"task: no file matches {text!r}")
        name = Path(text).stem if not has_magic(text) else Path(text).parent.name
        files = [path_in(file, str(Path(text).parent)).rstrip("/") + "/" + Path(text).name]
        return {"task": name or "texts", "evaluator": "bits_per_byte", "files": files}
    name, _, metric = text.partition(":")
    say(f"looking for the task {name} in lm-eval")
    usual = usual_metric(name, Path(include_path) if include_path else None)
    return {"task": name, "metric": metric or usual}
