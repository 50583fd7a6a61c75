"""Embeddings of models with different vocabularies in one vocabulary: permuted, filled and padded, as in mergekit.

A token's row comes from the model's own embedding of the token. If the model has none, the row is the first of these
that applies: what the recipe's ``tokens`` say; zeros if no model has the token; the embedding of the only model that
has it; the base's embedding; the mean of all models that have it. Rows beyond the tokens (``pad_to_multiple_of``) are
the mean of all other rows.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mergesearch.errors import UserError, listed
from mergesearch.merge_ops.checkpoint.architecture import architecture, architecture_of
from mergesearch.merge_ops.checkpoint.config_sections import with_one_token_more
from mergesearch.merge_ops.checkpoint.tensor_files import TensorInfo
from mergesearch.merge_ops.inputs.aligned_names import AlignedCheckpoint
from mergesearch.merge_ops.inputs.guessed_names import is_embedding
from mergesearch.merge_ops.inputs.tokenizer import load_tokenizer, quiet_tokenizers, result_tokenizer
from mergesearch.merge_ops.recipe.vocabulary_config import TokenConfig, TokenEmbedding, TokenizerConfig, ZeroEmbedding

TokenRows = dict[str, int]
"""The row of each token."""


@dataclass
class Vocabulary:
    """The vocabulary of a result, and how it relates to the models' vocabularies.

    Attributes:
        config: the ``tokenizer`` section of the recipe.
        tokenizer: the result's tokenizer.
        tokens: its vocabulary.
        embedded: for each model, the row of each token that it has an embedding of.
        model_tokens: for each model, its tokenizer's vocabulary.
        names: the names of the tensors that have one row for each token.
        warnings: what the user should know about the models' vocabularies, one line each.
        size: the number of rows of the result.
    """

    config: TokenizerConfig
    tokenizer: Any
    tokens: TokenRows
    embedded: dict[str, TokenRows]
    model_tokens: dict[str, TokenRows]
    names: frozenset[str]
    warnings: list[str] = field(default_factory=list)
    size: int = field(init=False)

    def __post_init__(self) -> None:
        count = max(len(self.tokens), 1 + max(self.tokens.values(), default=-1))
        multiple = self.config.pad_to_multiple_of or 1
        self.size = -(-count // multiple) * multiple

    def resized(self, info: TensorInfo) -> TensorInfo:
        """Returns the info of an embedding in the result's vocabulary."""
        return TensorInfo((self.size, *info.shape[1:]), info.dtype)

    def aligned(self, tensors: Mapping[str, Tensor], base: str | None) -> dict[str, Tensor]:
        """Returns the models' embeddings in the result's vocabulary, all in one dtype.

        Args:
            tensors: one embedding of each model, of shape (rows, ...).
            base: the reference of the base.
        """
        dtype = next(iter(tensors.values())).dtype
        for tensor in tensors.values():
            dtype = torch.promote_types(dtype, tensor.dtype)
        typed = {model: tensor.to(dtype) for model, tensor in tensors.items()}
        aligned = {model: self._permuted(model, tensor) for model, tensor in typed.items()}
        for token, models in self._models_to_fill(tensors).items():
            row = self._row_for(token, typed, base)
            for model in models:
                aligned[model][self.tokens[token]] = row
        for tensor in aligned.values():
            self._fill_padding(tensor)
        return aligned

    def _permuted(self, model: str, tensor: Tensor) -> Tensor:
        """Returns the model's own rows in the result's order, and zeros elsewhere."""
        permuted = torch.zeros(self.size, *tensor.shape[1:], dtype=tensor.dtype)
        shared = [token for token in self.tokens if token in self.embedded[model]]
        target = torch.tensor([self.tokens[token] for token in shared], dtype=torch.long)
        permuted[target] = tensor[torch.tensor([self.embedded[model][token] for token in shared], dtype=torch.long)]
        return permuted

    def moves(self, model: str) -> bool:
        """Returns whether a token of the model has another row in the result."""
        return any(self.tokens.get(token, row) != row for token, row in self.embedded[model].items())

    def _models_to_fill(self, models: Iterable[str]) -> dict[str, list[str]]:
        """Returns, by token, those of the models that do not keep an embedding of their own."""
        forced = {token for token, config in self.config.tokens.items() if config.force}
        to_fill = {
            token: [model for model in models if token in forced or token not in self.embedded[model]]
            for token in self.tokens
        }
        return {token: lacking for token, lacking in to_fill.items() if lacking}

    def _row_for(self, token: str, tensors: Mapping[str, Tensor], base: str | None) -> Tensor:
        config = self.config.tokens.get(token, TokenConfig())
        if config.source is not None:
            return self._configured_row(token, config.source, tensors)
        owners = [model for model in tensors if token in self.embedded[model]]
        if not owners:
            return torch.zeros_like(next(iter(tensors.values()))[0])
        if len(owners) > 1 and base in owners:
            owners = [base]
        rows = [tensors[model][self.embedded[model][token]] for model in owners]
        total = rows[0].clone()
        for row in rows[1:]:
            total += row
        return total / len(rows)

    def check(self, rows: Mapping[str, int]) -> None:
        """Raises UserError if a configured embedding does not exist. ``rows`` is each model's number of embeddings."""
        for token in self._models_to_fill(rows):
            config = self.config.tokens.get(token, TokenConfig())
            if config.source is not None and not isinstance(config.source, ZeroEmbedding):
                self._source_row(token, config.source, rows)

    def _configured_row(
        self, token: str, source: ZeroEmbedding | TokenEmbedding | str, tensors: Mapping[str, Tensor]
    ) -> Tensor:
        if isinstance(source, ZeroEmbedding):
            return torch.zeros_like(next(iter(tensors.values()))[0])
        model, row = self._source_row(token, source, {model: tensor.shape[0] for model, tensor in tensors.items()})
        return tensors[model][row]

    def _source_row(self, token: str, source: TokenEmbedding | str, rows: Mapping[str, int]) -> tuple[str, int]:
        """Returns the model and the row of a configured embedding."""
        model = source.model if isinstance(source, TokenEmbedding) else source
        if model not in rows:
            raise UserError(f"tokenizer.tokens.{token}: {model} is not among the models: {listed(rows)}")
        row = self._row_in(model, token, source)
        if row is None or row >= rows[model]:
            raise UserError(f"tokenizer.tokens.{token}: {model} has no embedding of {_in_words(token, source)}")
        return model, row

    def _row_in(self, model: str, token: str, source: TokenEmbedding | str) -> int | None:
        if not isinstance(source, TokenEmbedding):
            return self.embedded[model].get(token)
        return source.token_id if source.token is None else self.model_tokens[model].get(source.token)

    def _fill_padding(self, tensor: Tensor) -> None:
        used = torch.zeros(self.size, dtype=torch.bool)
        used[list(self.tokens.values())] = True
        if not used.all():
            tensor[~used] = tensor[used].mean(dim=0)


def _in_words(token: str, source: TokenEmbedding | str) -> str:
    if isinstance(source, TokenEmbedding):
        return f"the token {source.token!r}" if source.token is not None else f"the token_id {source.token_id}"
    return f"{token!r}"


def make_vocabulary(
    config: TokenizerConfig, inputs: Mapping[str, AlignedCheckpoint], base: str, named_paths: Mapping[str, Path]
) -> Vocabulary:
    """Returns the vocabulary that a recipe asks for. A model without a tokenizer counts as having the base's.

    Args:
        config: the ``tokenizer`` section of the recipe.
        inputs: the checkpoints by reference.
        base: the reference of the template.
        named_paths: as for ``Checkpoint``.

    Raises:
        UserError: the base has no tokenizer, no embeddings were found, or a configured embedding does not exist.
    """
    with quiet_tokenizers():
        loaded = {reference: load_tokenizer(entry.checkpoint) for reference, entry in inputs.items()}
        if loaded[base] is None:
            raise UserError(f"tokenizer: {base} has no tokenizer")
        tokenizers = {base: loaded[base], **{r: t for r, t in loaded.items() if t is not None}}
        names = embedding_names(inputs[base])
        rows = {reference: _row_count(entry, names) for reference, entry in inputs.items()}
        tokenizer = result_tokenizer(config, tokenizers, rows, base, named_paths)
    model_tokens = {reference: (loaded[reference] or loaded[base]).get_vocab() for reference in inputs}
    embedded = {ref: {token: i for token, i in model_tokens[ref].items() if i < rows[ref]} for ref in inputs}
    warnings = [f"{r} has no tokenizer: its rows are taken for {base}'s tokens" for r, t in loaded.items() if t is None]
    vocabulary = Vocabulary(config, tokenizer, tokenizer.get_vocab(), embedded, model_tokens, names, warnings)
    vocabulary.check(rows)
    if vocabulary.size != rows[base] or any(map(vocabulary.moves, inputs)):
        _check_others(inputs[base], names)
    return vocabulary


def _check_others(template: AlignedCheckpoint, names: frozenset[str]) -> None:
    """Raises UserError if tensors that are no embeddings have an entry for each token, too, such as a bias of logits.

    They are the tensors that transformers makes larger in a model with one more token.
    """
    known = architecture(template.checkpoint)
    larger = architecture_of(with_one_token_more(template.checkpoint.config)) if known else None
    if known is None or larger is None:
        return
    live = known.live_names(template.own_names.values())
    grown = {name for name, shape in known.shapes.items() if larger.shapes.get(name, shape) != shape}
    others = [name for name, own in template.own_names.items() if live[own].name in grown and name not in names]
    if others:
        raise UserError(
            f"tokenizer: {template.reference}: {listed(others)} has an entry for each token, too, which cannot follow "
            "the tokens to other rows"
        )


def _row_count(entry: AlignedCheckpoint, names: frozenset[str]) -> int:
    counts = [entry.tensors[name].shape[0] for name in names if name in entry.tensors]
    if not counts:
        raise UserError(f"tokenizer: {entry.reference} has none of the embeddings {listed(names)}")
    return min(counts)


def embedding_names(template: AlignedCheckpoint) -> frozenset[str]:
    """Returns the names of the input and output embeddings and their biases.

    They are found in transformers' model of the template, and by their names. Raises UserError if there are none.
    """
    by_name = filter(is_embedding, template.tensors)
    names = frozenset([*_names_in_model(template), *by_name])
    if not names:
        raise UserError(f"tokenizer: {template.reference}: found no embeddings of tokens")
    return names


def _names_in_model(template: AlignedCheckpoint) -> list[str]:
    """Returns the names of the parameters in the input and output embeddings of transformers' model."""
    known = architecture(template.checkpoint)
    if known is None:
        return []
    live_names = known.live_names(template.checkpoint.tensors)
    in_model = [name for name, own in template.own_names.items() if live_names[own].name in known.embeddings]
    return [name for name in in_model if live_names[template.own_names[name]].loaded]
