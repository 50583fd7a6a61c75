"""Scores from a program that is given a written candidate: for judges that cannot be imported."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from mergesearch.errors import UserError
from mergesearch.evaluators.contract.evaluator import EvaluatorOptions, Item, LoadedModel, MeanOfItems, Metric, Shared
from mergesearch.evaluators.tasks.external import WHOLE, checked, items_of, read_items
from mergesearch.files import ended_by_exception

if TYPE_CHECKING:
    from torch import Tensor

TAIL = 2_000
"""How many characters of what a program said last are told when it fails."""


class CommandOptions(EvaluatorOptions):
    """Which program, and what its numbers are called."""

    command: str | list[str] = Field(
        min_length=1, description="Program and arguments; {model} stands for the folder, {items} for a file of names"
    )
    timeout: float = Field(3600.0, gt=0, description="Seconds until the program is ended and the candidate has failed")
    items: list[str] | str | None = Field(None, description="The items' names, or a file with one a line")
    metric: str = Field("score", min_length=1, description="What the number is called")
    higher_is_better: bool = True


class Command(MeanOfItems):
    """See ``Evaluator``. The program is run without a shell and gets the path of the candidate's folder.

    The folder has safetensors, config and tokenizer, byte for byte what a merge would write, and is removed afterwards.
    ``{items}`` is the path of a file with the names of the items asked for, one a line. The program prints JSON, alone
    or as its last line: ``{"score": 0.5}`` for the whole model, or ``{item: score}`` where the config names the items.
    A status other than 0, too long a time, or anything else printed fails the candidate.
    """

    Options: ClassVar[type[EvaluatorOptions]] = CommandOptions

    def __init__(self, options: CommandOptions, shared: Shared) -> None:  # noqa: ARG002
        self.task = options.task
        self.metric = Metric(options.metric, options.higher_is_better)
        self._timeout = options.timeout
        self._arguments = _arguments(options.command)
        self.items = items_of(self.task, read_items(options.items) if isinstance(options.items, str) else options.items)

    def score(self, subject: LoadedModel, items: Sequence[Item]) -> Tensor:
        """See ``Evaluator.score``. Raises RuntimeError with what the program said last where it fails."""
        import torch

        if subject.save is None:
            raise RuntimeError("this model cannot be written to a folder")
        if not items:
            return torch.empty(0, dtype=torch.float64)
        with ended_by_exception(), tempfile.TemporaryDirectory(prefix="mergesearch-") as folder:
            model, names = Path(folder) / "model", Path(folder) / "items.txt"
            subject.save(model)
            names.write_text("".join(f"{item.id}\n" for item in items), encoding="utf-8")
            said = self._run({"{model}": str(model), "{items}": str(names)})
        return checked(self.task, self.items, items, _answer(self.task, said))

    def _run(self, places: Mapping[str, str]) -> str:
        """What the program prints."""
        arguments = [_filled(argument, places) for argument in self._arguments]
        # A session of its own, so that what the program itself has started ends with it.
        process = subprocess.Popen(
            arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        )
        try:
            out, err = process.communicate(timeout=self._timeout)
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"task {self.task!r}: the program took longer than {self._timeout:g} s") from None
        finally:
            _end(process)
        if process.returncode:
            raise RuntimeError(f"task {self.task!r}: the program ended with {process.returncode}: {_tail(err)}")
        return out.decode("utf-8", errors="replace")


def _arguments(command: str | list[str]) -> list[str]:
    """Checked: the program is there, and is told where the model lies."""
    try:
        arguments = shlex.split(command) if isinstance(command, str) else command
    except ValueError as error:
        raise UserError(f"command: {command!r}: {error}") from None
    if not arguments or not any("{model}" in argument for argument in arguments):
        raise UserError(f"command: found {command!r}, expected {{model}} where the candidate's folder belongs")
    if shutil.which(arguments[0]) is None:
        raise UserError(f"command: there is no program {arguments[0]!r}, or it cannot be run")
    return arguments


def _filled(argument: str, places: Mapping[str, str]) -> str:
    for name, place in places.items():
        argument = argument.replace(name, place)
    return argument


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends the program and its children where it still runs."""
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def _tail(text: bytes) -> str:
    return text.decode("utf-8", errors="replace").strip()[-TAIL:] or "it said nothing"


def _answer(task: str, said: str) -> object:
    """The JSON printed; of ``{"score": x}`` the number."""
    last = said.strip().rsplit("\n", 1)[-1]
    for text in (said, last):
        with suppress(ValueError):
            answer = json.loads(text)
            return answer[WHOLE] if isinstance(answer, dict) and answer.keys() == {WHOLE} else answer
    raise ValueError(f'task {task!r}: the program printed {last[-200:]!r}, expected JSON such as {{"score": 0.5}}')
