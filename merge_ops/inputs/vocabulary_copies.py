"""Checkpoints in one vocabulary: copies whose embeddings, configs and tokenizers are those of the result.

Only embeddings are written; the other tensors stay in the files of the original. So whatever merges them, or loads one
of them, sees models of one vocabulary.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from weakref import WeakValueDictionary

from torch import Tensor

from mergesearch.errors import UserError, listed
from mergesearch.merge_ops.checkpoint.checkpoint import Checkpoint
from mergesearch.merge_ops.checkpoint.config_sections import FILES, check_files
from mergesearch.merge_ops.checkpoint.content import stamp
from mergesearch.merge_ops.checkpoint.copies import CopiesFolder, CopyWriter
from mergesearch.merge_ops.inputs.aligned_names import AlignedCheckpoint, align
from mergesearch.merge_ops.inputs.result_vocabulary import write_vocabulary
from mergesearch.merge_ops.inputs.standalone import make_same_tokens
from mergesearch.merge_ops.inputs.tensor_cache import same_bits
from mergesearch.merge_ops.inputs.vocabulary import Vocabulary, make_vocabulary
from mergesearch.merge_ops.recipe.vocabulary_config import TokenizerConfig


class VocabularyCopies(CopiesFolder):
    """The copies, as long as somebody holds this object.

    Attributes:
        paths: the folder of each copy by the model's reference.
        changed: the references of models that are others than their copies: other rows or other tokens for a text.
        warnings: what the user should know about the models' vocabularies, one line each.
        summary: the vocabulary, in one line.
    """

    def __init__(self, vocabulary: Vocabulary, inputs: Mapping[str, AlignedCheckpoint], base: str | None) -> None:
        super().__init__("vocabulary")
        for checkpoint in (entry.checkpoint for entry in inputs.values()):
            check_files(checkpoint.folder or checkpoint.path, FILES)
        self.paths = {reference: self.path / str(number) for number, reference in enumerate(inputs)}
        self.warnings = vocabulary.warnings
        self.summary = str(vocabulary)
        copies = {reference: _Copy(entry, vocabulary, self.paths[reference]) for reference, entry in inputs.items()}
        for name in sorted(vocabulary.names):
            tensors = {reference: entry.tensor(name) for reference, entry in inputs.items() if name in entry.tensors}
            for reference, tensor in vocabulary.aligned(tensors, base).items():
                copies[reference].write(name, tensor, tensors[reference])
        for copy in copies.values():
            copy.finish()
        self.changed = frozenset(reference for reference, copy in copies.items() if copy.is_changed)


class _Copy:
    """A copy of one model while it is written."""

    def __init__(self, entry: AlignedCheckpoint, vocabulary: Vocabulary, folder: Path) -> None:
        self._entry = entry
        self._vocabulary = vocabulary
        self._folder = folder
        self._writer = CopyWriter(entry.checkpoint, folder)
        self._written: dict[str, Tensor] = {}
        own = vocabulary.tokenizers[entry.reference]
        self.is_changed = vocabulary.moves(entry.reference) or not make_same_tokens(own, vocabulary.tokenizer)

    def write(self, name: str, tensor: Tensor, original: Tensor) -> None:
        """Writes an embedding in the result's vocabulary.

        One that was tied to another one, and now differs from it, gets a name of its own.
        """
        own = self._entry.own_names[name]
        written = self._written.setdefault(own, tensor)
        self.is_changed |= not same_bits(tensor, original.to(tensor.dtype))
        if written is tensor or not same_bits(written, tensor):
            self._writer.write({own if written is tensor else name: tensor})

    def finish(self) -> None:
        """Writes the config and the tokenizer, and what else the model has."""
        entry, checkpoint = self._entry, self._entry.checkpoint
        others = {*entry.own_names.values(), *entry.left_out} - self._written.keys()
        if checkpoint.has_adapter:
            for name in sorted(others):
                self._writer.write({name: checkpoint.tensor(name)})
        self._writer.finish([] if checkpoint.has_adapter else sorted(others), checkpoint.config)
        sizes = {entry.tensors[name].shape[0] for name in self._vocabulary.names if name in entry.tensors}
        write_vocabulary(self._folder, self._vocabulary, entry.reference, sizes)


_COPIES: WeakValueDictionary[str, VocabularyCopies] = WeakValueDictionary()
"""The copies that are held in this process, by what they are made of."""


def vocabulary_copies(
    config: TokenizerConfig, references: Sequence[str], base: str | None, named_paths: Mapping[str, Path]
) -> VocabularyCopies:
    """Returns copies of models in the vocabulary that a recipe asks for. They are made once as long as they are held.

    Args:
        config: the ``tokenizer`` section of the recipe.
        references: the models of the recipe, the template first.
        base: the base of the recipe, if it has one.
        named_paths: as for ``Checkpoint``.

    Raises:
        UserError: ``tokenizer.models`` lacks a model, or the models cannot have this vocabulary; see
            ``make_vocabulary``.
    """
    models = config.models or list(references)
    if missing := [reference for reference in references if reference not in models]:
        raise UserError(f"tokenizer.models: found {listed(models)}, expected {listed(missing)} too")
    checkpoints = [Checkpoint(reference, named_paths) for reference in models]
    filled_from = models[0] if config.models else base
    key = _key(config, checkpoints, filled_from, named_paths)
    copies = _COPIES.get(key)
    if copies is None:
        inputs = align(checkpoints)
        vocabulary = make_vocabulary(config, inputs, models[0], named_paths, filled_from)
        _COPIES[key] = copies = VocabularyCopies(vocabulary, inputs, filled_from)
    return copies


def _key(
    config: TokenizerConfig, checkpoints: Sequence[Checkpoint], base: str | None, named_paths: Mapping[str, Path]
) -> str:
    source = [] if config.source in ("base", "union") else [Checkpoint(config.source, named_paths)]
    return repr((config.model_dump(), base, *map(stamp, [*checkpoints, *source])))
