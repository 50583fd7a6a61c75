"""Scores from a program that reads the candidate from a folder, for judges that are no Python function."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from mergesearch.errors import UserError
from mergesearch.evaluators.contract.evaluator import MeanOfItems, Metric
from mergesearch.evaluators.contract.identity import named_files, with_imported
from mergesearch.evaluators.contract.item import Item
from mergesearch.evaluators.contract.loaded_model import LoadedModel
from mergesearch.evaluators.contract.options import EvaluatorOptions, OnDisk, Shared
from mergesearch.evaluators.tasks.external import WHOLE_MODEL, checked_scores, external_items, read_item_names
from mergesearch.evaluators.tasks.program import ProgramTimeoutError, run_program
from mergesearch.evaluators.tasks.scratch import scratch_folder
from mergesearch.text import quoted, shown
from mergesearch.trust import tell_code

if TYPE_CHECKING:
    from torch import Tensor

INTERPRETERS = re.compile(r"(python|pypy|(ba|z|da)?sh$|node|perl|ruby|Rscript|julia|java$|env$)")
"""Programs that run others, and whose own files say nothing about scores."""
ERROR_CHARACTERS = 2_000
"""How many characters of a failed program's last output are in the message."""


class CommandOptions(EvaluatorOptions):
    """The program, and the name and direction of its metric."""

    command: Annotated[str | list[str], OnDisk("command")] = Field(
        min_length=1,
        description="Program and arguments; {model} is replaced by the candidate's folder, {items} by a file of names",
    )
    timeout: float = Field(
        3600.0, gt=0, description="Seconds after which the program is killed and the candidate fails"
    )
    items: Annotated[list[str] | str | None, OnDisk()] = Field(
        None, description="Names of the items, or a file with one name per line"
    )
    metric: str = Field("score", min_length=1, description="Name of the metric")
    higher_is_better: bool = True


class Command(MeanOfItems):
    """See ``Evaluator``. The program is run without a shell and gets the path of the candidate's folder.

    The folder has the safetensors files, config and tokenizer that a merge would write, byte for byte. It is removed
    afterwards, and so are the processes that the program leaves in its group. ``{items}`` is a file with the names of
    the items to score, one per line. The program prints JSON, as its whole output or as the last line: ``{"score":
    0.5}`` for the whole model, or ``{item: score}`` if the config names the items. The candidate fails if the exit
    status is not 0, the program takes too long, or it prints anything else.
    """

    Options: ClassVar[type[EvaluatorOptions]] = CommandOptions

    def __init__(self, options: CommandOptions, shared: Shared) -> None:  # noqa: ARG002
        self.task = options.task
        self.metric = Metric(options.metric, options.higher_is_better)
        self._timeout = options.timeout
        self._arguments = _arguments(options.command)
        tell_code(f"the program {self._arguments[0]}")
        names = read_item_names(options.items) if isinstance(options.items, str) else options.items
        self.items = external_items(self.task, names)

    def code(self) -> Mapping[str, object]:
        """See ``HasCode``: the files among the program's arguments, and the program unless it runs one of them.

        Those in Python also with what they import from their folders.
        """
        files = with_imported(path for path in map(Path, self._arguments[1:]) if path.is_file())
        program = Path(shutil.which(self._arguments[0]) or self._arguments[0])
        return named_files(files if INTERPRETERS.match(program.name) else [*with_imported([program]), *files])

    def score(self, subject: LoadedModel, items: Sequence[Item]) -> Tensor:
        """See ``Evaluator.score``. Raises RuntimeError with the program's last output if it fails."""
        import torch

        if subject.save is None:
            raise RuntimeError(f"task {self.task!r}: this model cannot be written to a folder")
        if not items:
            return torch.empty(0, dtype=torch.float64)
        with scratch_folder(subject.scratch) as folder:
            model, names = folder / "model", folder / "items.txt"
            subject.save(model)
            names.write_text("".join(f"{item.id}\n" for item in items), encoding="utf-8")
            output = self._run({"{model}": str(model), "{items}": str(names)}, folder)
        return checked_scores(self.task, self.items, items, _parse(self.task, output))

    def _run(self, placeholders: Mapping[str, str], scratch: Path) -> str:
        """Runs the program. Returns the end of its standard output."""
        arguments = [_replaced(argument, placeholders) for argument in self._arguments]
        try:
            ended = run_program(arguments, self._timeout, scratch)
        except ProgramTimeoutError:
            raise RuntimeError(f"task {self.task!r}: the program took longer than {self._timeout:g} s") from None
        if ended.status:
            last_output = shown(ended.errors.strip()[-ERROR_CHARACTERS:]) or "no error output"
            raise RuntimeError(f"task {self.task!r}: the program {ended.in_words}: {last_output}")
        return ended.output


def _arguments(command: str | list[str]) -> list[str]:
    """The arguments. Raises UserError if the program does not exist or does not get the model's folder."""
    try:
        arguments = shlex.split(command) if isinstance(command, str) else command
    except ValueError as error:
        raise UserError(f"command: {command!r}: {error}") from None
    if not arguments or not any("{model}" in argument for argument in arguments):
        raise UserError(f"command: found {command!r}, expected {{model}} in place of the candidate's folder")
    if shutil.which(arguments[0]) is None:
        raise UserError(f"command: there is no program {arguments[0]!r}, or it is not executable")
    return arguments


def _replaced(argument: str, placeholders: Mapping[str, str]) -> str:
    for placeholder, path in placeholders.items():
        argument = argument.replace(placeholder, path)
    return argument


def _without_doubles(task: str, pairs: Sequence[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        doubled = next(name for number, (name, _) in enumerate(pairs) if name in dict(pairs[:number]))
        raise RuntimeError(f"task {task!r}: the program printed two scores of {quoted(doubled)}, expected one")
    return found


def _parse(task: str, output: str) -> object:
    """The JSON that was printed. The number of ``{"score": number}``."""
    last_line = output.strip().rsplit("\n", 1)[-1]
    for text in (output, last_line):
        with suppress(ValueError, RecursionError):
            result = json.loads(text, object_pairs_hook=partial(_without_doubles, task))
            return result[WHOLE_MODEL] if isinstance(result, dict) and result.keys() == {WHOLE_MODEL} else result
    raise ValueError(
        f'task {task!r}: the program printed {quoted(last_line[-200:], 200)}, expected JSON such as {{"score": 0.5}}'
    )
