"""Bits per byte of UTF-8 text files: how well the model compresses them, whatever its tokenizer."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from glob import glob
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from mergesearch.errors import UserError
from mergesearch.evaluators._base import EvaluatorOptions, Item, LoadedModel, MeanOfItems, Metric, Shared

if TYPE_CHECKING:
    from torch import Tensor

    from mergesearch.evaluators._logprobs import Scorer


class BitsPerByteOptions(EvaluatorOptions):
    """Text files and how to read them."""

    files: list[str] = Field(
        min_length=1, description="UTF-8 text files, by path or by pattern such as 'texts/**/*.txt'"
    )
    max_length: int | None = Field(None, gt=1, description="Tokens in a window; default: the model's context")


class BitsPerByte(MeanOfItems):
    """See ``Evaluator``. One item per file, weighted by its bytes; the value is that of lm-eval's bits_per_byte.

    Windows do not overlap; the first token of each is predicted from the last one of the window before, and the first
    of all from the tokenizer's beginning-of-text token (or end-of-text, where it has none).
    """

    Options: ClassVar[type[EvaluatorOptions]] = BitsPerByteOptions

    def __init__(self, options: BitsPerByteOptions, shared: Shared) -> None:
        self.task = options.task
        self.metric = Metric("bits_per_byte", higher_is_better=False)
        self._options = options
        self._batch_size = shared.batch_size
        self._texts = {self._item(path): _text(path) for path in _found(options.files)}
        self.items = list(self._texts)
        self._subject: LoadedModel | None = None
        self._scorer: Scorer | None = None

    def _item(self, path: Path) -> Item:
        content = path.read_bytes()
        if not content:
            raise UserError(f"files: {path} is empty")
        return Item(str(path), self.task, hashlib.sha256(content).hexdigest(), float(len(content)))

    def score(self, subject: LoadedModel, items: Sequence[Item]) -> Tensor:
        """See ``Evaluator.score``."""
        import torch

        from mergesearch.evaluators._harness import as_command_line

        wanted = set(items)
        ordered = [number for number, item in enumerate(self.items) if item in wanted]
        with as_command_line():
            answers = self._prepared(subject).score(ordered)
        scores = {self.items[n]: self._bits(self.items[n], nats) for n, (nats, _) in zip(ordered, answers, strict=True)}
        return torch.tensor([scores[item] for item in items], dtype=torch.float64)

    def _bits(self, item: Item, nats: float) -> float:
        if math.isnan(nats):
            raise FloatingPointError(f"task {self.task!r}, item {item.id}: the model's output is not a number")
        return -nats / math.log(2) / item.weight

    def _prepared(self, subject: LoadedModel) -> Scorer:
        from mergesearch.evaluators._harness import rolling_requests, wrap
        from mergesearch.evaluators._logprobs import Scorer

        if self._scorer is None or self._subject != subject:
            wrapped = wrap(subject, self._batch_size, self._options.max_length)
            questions = [rolling_requests(wrapped, text) for text in self._texts.values()]
            self._scorer = Scorer(subject.model, questions, wrapped.max_length, self._batch_size)
            self._subject = subject
        return self._scorer


def _found(patterns: Sequence[str]) -> list[Path]:
    """The files that the patterns match, each once, in the order of their names."""
    paths: set[Path] = set()
    for pattern in patterns:
        # Path.glob knows no absolute patterns.
        matches = {Path(match) for match in glob(pattern, recursive=True) if Path(match).is_file()}  # noqa: PTH207
        if not matches:
            raise UserError(f"files: nothing matches {pattern!r} (looked from {Path.cwd()})")
        paths |= matches
    return sorted(paths)


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"files: {path} is not UTF-8 text: {error}") from error
