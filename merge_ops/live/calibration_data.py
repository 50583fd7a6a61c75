"""Data that live models run on for a statistic: a text, or a ``.safetensors`` file with a model's inputs."""

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mergesearch.copies import here
from mergesearch.errors import UserError, in_words, listed
from mergesearch.merge_ops.checkpoint.tensor_files import TensorFile
from mergesearch.merge_ops.checkpoint.weight_files import SUFFIX
from mergesearch.reading import read_bytes

SEQUENCE_LENGTH = 256
"""The largest number of tokens in a sequence. Each sequence is one example."""


@dataclass(frozen=True)
class Batch:
    """Inputs of a model.

    Attributes:
        tensors: the inputs by name, each [examples, ...].
        positional: whether the tensors are the model's first inputs in this order, whatever their names.
    """

    tensors: Mapping[str, Tensor]
    positional: bool = False

    def run(self, model: nn.Module) -> Any:
        """Returns the model's output, without gradients. Raises UserError where it cannot take the inputs."""
        try:
            with torch.no_grad():
                return model(*self.tensors.values()) if self.positional else model(**self.tensors)
        except (TypeError, ValueError, IndexError, RuntimeError, AttributeError) as error:  # whatever the model says
            given = listed(f"{name} {list(tensor.shape)}" for name, tensor in self.tensors.items())
            raise UserError(f"calibration: {type(model).__name__} cannot run on {given}: {in_words(error)}") from error

    def parts(self, examples: int) -> Iterator["Batch"]:
        """Yields the batch in parts of so many examples."""
        count = min(len(tensor) for tensor in self.tensors.values())
        for start in range(0, count, examples):
            part = {name: tensor[start : start + examples] for name, tensor in self.tensors.items()}
            yield Batch(part, self.positional)


def read_text(path: Path) -> str:
    """The text of a file in UTF-8. Raises UserError."""
    try:
        return read_bytes(Path(here(str(path)))).decode()
    except UnicodeDecodeError as error:
        raise UserError(f"calibration: {path} is not UTF-8 text: {error}") from error


def token_sequences(tokenizer: Any, reference: str, text: str, tokens: int, length: int | None = None) -> list[Tensor]:
    """Returns the beginning of a text as sequences of at most ``length`` tokens, int64 [tokens] each.

    ``length`` is ``SEQUENCE_LENGTH`` by default.

    Raises:
        UserError: the text has fewer than two tokens, or there is no tokenizer.
    """
    if tokenizer is None:
        raise UserError(f"{reference}: has no tokenizer, but the calibration text needs one")
    ids = tokenizer(read_text(Path(text)), verbose=False)["input_ids"][:tokens]
    length = length or SEQUENCE_LENGTH
    slices = [ids[start : start + length] for start in range(0, len(ids), length)]
    sequences = [torch.tensor(sequence) for sequence in slices if len(sequence) > 1]
    if not sequences:
        raise UserError(f"calibration: {text} has {len(ids)} tokens, expected at least 2")
    return sequences


def calibration_batch(model: Any, tokenizer: Any, reference: str, data: str, tokens: int) -> Batch:
    """Returns the inputs of a calibration file as one batch, on the model's device.

    A text becomes sequences of equal length, so that no position is padding; a shorter last one is left out. The
    tensors of a ``.safetensors`` file are inputs by name; a single one of another name is the first input. Their floats
    get the model's dtype.

    Args:
        model: the live model.
        tokenizer: its tokenizer, or None.
        reference: the model's reference, for messages.
        data: the path of the file.
        tokens: how many tokens of a text are read.

    Raises:
        UserError: the file cannot be read, or the model needs another kind of file.
    """
    parameter = next(model.parameters())
    if data.endswith(SUFFIX):
        return _stored_batch(model, Path(data), parameter)
    if tokenizer is None:
        raise UserError(
            f"{reference}: has no tokenizer, but {data} is a text; expected a {SUFFIX} file with the model's inputs, "
            "each tensor with the name of the input"
        )
    config = getattr(model, "config", None)
    longest = getattr(config, "max_position_embeddings", None) or SEQUENCE_LENGTH
    length = min(SEQUENCE_LENGTH, longest)
    sequences = token_sequences(tokenizer, reference, data, tokens, length)
    ids = torch.stack([row for row in sequences if len(row) == len(sequences[0])]).to(parameter.device)
    decoder = {"decoder_input_ids": ids} if getattr(config, "is_encoder_decoder", False) else {}
    return Batch({"input_ids": ids, **decoder})


def _stored_batch(model: nn.Module, path: Path, like: Tensor) -> Batch:
    file = TensorFile(Path(here(str(path))))
    tensors = {name: file.read(name) for name in file.tensors}
    if not tensors or any(tensor.dim() == 0 for tensor in tensors.values()):
        raise UserError(f"calibration: {path}: expected tensors with examples along their first dimension")
    named = inspect.signature(model.forward).parameters.keys() >= tensors.keys()
    if not named and len(tensors) > 1:
        raise UserError(f"calibration: {path}: {type(model).__name__} has no inputs {listed(tensors)}")
    dtype = like.dtype
    moved = {name: t.to(like.device, dtype if t.is_floating_point() else None) for name, t in tensors.items()}
    return Batch(moved, positional=not named)
