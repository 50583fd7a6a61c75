"""Embeddings of models with different vocabularies in one vocabulary: permuted, filled and padded, as in mergekit.

A token's row comes from the model's own embedding of the token. If the model has none, the row is the first of these
that applies: what the recipe's ``tokens`` say; what its rule for ``missing`` tokens gives; zeros if no model has the
token; the embedding of the only model that has it; the base's embedding; the mean of all models that have it. Rows
beyond the tokens (``pad_to_multiple_of``) are the mean of all other rows.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mergesearch.errors import UserError, listed
from mergesearch.merge_ops.inputs.aligned_names import AlignedCheckpoint
from mergesearch.merge_ops.inputs.missing_tokens import TokenRows, sparse_combinations, subtoken_means, text_of
from mergesearch.merge_ops.inputs.token_tensors import check_others, check_widths, embedding_names, row_count
from mergesearch.merge_ops.inputs.tokenizer import load_tokenizer, quiet_tokenizers, result_tokenizer
from mergesearch.merge_ops.recipe.vocabulary_config import (
    Missing,
    TokenConfig,
    TokenEmbedding,
    TokenizerConfig,
    ZeroEmbedding,
)


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
        tokenizers: for each model, its tokenizer.
        warnings: what the user should know about the models' vocabularies, one line each.
        size: the number of rows of the result.
    """

    config: TokenizerConfig
    tokenizer: Any
    tokens: TokenRows
    embedded: dict[str, TokenRows]
    model_tokens: dict[str, TokenRows]
    names: frozenset[str]
    tokenizers: Mapping[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    size: int = field(init=False)

    def __post_init__(self) -> None:
        count = max(len(self.tokens), 1 + max(self.tokens.values(), default=-1))
        multiple = self.config.pad_to_multiple_of or 1
        self.size = -(-count // multiple) * multiple

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
        for model, tensor in aligned.items():
            for token, row in self._made_rows(model, typed, base):
                tensor[self.tokens[token]] = row
            self._fill_padding(tensor)
        return aligned

    def _permuted(self, model: str, tensor: Tensor) -> Tensor:
        """Returns the model's own rows in the result's order, and zeros elsewhere."""
        permuted = torch.zeros(self.size, *tensor.shape[1:], dtype=tensor.dtype)
        shared = [token for token in self.tokens if token in self.embedded[model]]
        target = torch.tensor([self.tokens[token] for token in shared], dtype=torch.long)
        permuted[target] = tensor[torch.tensor([self.embedded[model][token] for token in shared], dtype=torch.long)]
        return permuted

    def __str__(self) -> str:
        """One line for the user: how many tokens there are, and how many of them models lack."""
        counts = {model: len(self.tokens.keys() - rows.keys()) for model, rows in self.embedded.items()}
        lacking = listed(f"{model} lacks {count}" for model, count in counts.items() if count)
        rules = ", ".join(sorted(self.config.rules))
        made = f"; {lacking} (missing: {rules})" if lacking else ""
        return f"vocabulary: {self.config.source}, {len(self.tokens)} tokens{made}"

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

    def _made_rows(self, model: str, tensors: Mapping[str, Tensor], base: str | None) -> Iterator[tuple[str, Tensor]]:
        """Yields the rows of tokens that a model lacks, and that a rule makes of the rows that it has."""
        rows, own = tensors[model], self.embedded[model]
        for rule, donors in self._donors(model, tensors, base).items():
            if rule == "subtokens":
                ids = {token: self.model_tokens[donor][token] for token, donor in donors.items()}
                texts = {token: text_of(ids[token], self.tokenizers[donor]) for token, donor in donors.items()}
                yield from subtoken_means(texts, rows, self.tokenizers[model])
            elif rows.dim() > 1:
                for donor in dict.fromkeys(donors.values()):
                    tokens = [token for token in donors if donors[token] == donor]
                    theirs = tensors[donor], self.embedded[donor]
                    yield from sparse_combinations(tokens, (rows, own), theirs, self.config.atoms)

    def _donors(self, model: str, models: Collection[str], base: str | None) -> dict[Missing, dict[str, str]]:
        """Returns, by rule, the tokens that a model lacks and that are made by it, each with a model that has it.

        That is the base if it has the token, else the first one that does.
        """
        found: dict[Missing, dict[str, str]] = {}
        if self.config.rules == {"mean"}:
            return found
        base_first = sorted(models, key=lambda each: each != base)
        for token in self.tokens:
            config = self.config.tokens.get(token, TokenConfig())
            rule = config.missing or self.config.missing
            if rule == "mean" or config.source is not None or token in self.embedded[model]:
                continue
            donor = next((each for each in base_first if token in self.embedded[each]), None)
            if donor is not None:
                found.setdefault(rule, {})[token] = donor
        return found

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

    def check(self, rows: Mapping[str, int], base: str | None) -> None:
        """Raises UserError if a configured embedding does not exist, or a rule for missing tokens cannot be applied.

        Args:
            rows: each model's number of embeddings.
            base: the reference of the base.
        """
        for model in rows:
            for donor in dict.fromkeys(self._donors(model, rows, base).get("omp", {}).values()):
                if not self.embedded[model].keys() & self.embedded[donor].keys():
                    raise UserError(
                        f"tokenizer.missing: omp: {model} and {donor} have no token in common, expected one at least: "
                        "the tokens that a model lacks are combined of those; use subtokens or mean"
                    )
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
    config: TokenizerConfig,
    inputs: Mapping[str, AlignedCheckpoint],
    template: str,
    named_paths: Mapping[str, Path],
    base: str | None = None,
) -> Vocabulary:
    """Returns the vocabulary that a recipe asks for. A model without a tokenizer counts as having the template's.

    Args:
        config: the ``tokenizer`` section of the recipe.
        inputs: the checkpoints by reference.
        template: the reference of the template.
        named_paths: as for ``Checkpoint``.
        base: the reference of the base, if there is one.

    Raises:
        UserError: the template has no tokenizer, no embeddings were found, or a configured embedding does not exist.
    """
    with quiet_tokenizers():
        loaded = {reference: load_tokenizer(entry.checkpoint) for reference, entry in inputs.items()}
        if loaded[template] is None:
            raise UserError(f"tokenizer: {template} has no tokenizer")
        tokenizers = {template: loaded[template], **{r: t for r, t in loaded.items() if t is not None}}
        names = embedding_names(inputs[template])
        rows = {reference: row_count(entry, names) for reference, entry in inputs.items()}
        tokenizer = result_tokenizer(config, tokenizers, rows, template, named_paths)
    owned = {reference: loaded[reference] or loaded[template] for reference in inputs}
    model_tokens = {reference: each.get_vocab() for reference, each in owned.items()}
    embedded = {ref: {token: i for token, i in model_tokens[ref].items() if i < rows[ref]} for ref in inputs}
    lacking = [reference for reference, each in loaded.items() if each is None]
    warnings = [f"{reference} has no tokenizer: its rows are taken for {template}'s tokens" for reference in lacking]
    tokens = tokenizer.get_vocab()
    vocabulary = Vocabulary(config, tokenizer, tokens, embedded, model_tokens, names, owned, warnings)
    vocabulary.check(rows, base)
    check_widths(inputs, names)
    if vocabulary.size != rows[template] or any(map(vocabulary.moves, inputs)):
        check_others(inputs[template], names)
    return vocabulary
