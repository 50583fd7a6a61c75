"""Embeddings of models with other vocabularies, brought to one: permuted, filled and padded, as mergekit does.

A token's row comes from the model's own embedding of it. Where the model has none, it is, in this order: what the
recipe's ``tokens`` say; the only model's that has the token; zero where none has; the base's where the base has it;
else the mean of those that have it. Rows beyond the tokens (``pad_to_multiple_of``) are the mean of all others.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mergesearch.errors import UserError, listed
from mergesearch.merge_ops.checkpoint.tensor_files import TensorInfo
from mergesearch.merge_ops.inputs.aligned_names import INPUT_EMBEDDING, OUTPUT_EMBEDDING, Input
from mergesearch.merge_ops.inputs.tokenizer import load_tokenizer, quiet_tokenizers, result_tokenizer
from mergesearch.merge_ops.recipe.layout import layer_of
from mergesearch.merge_ops.recipe.vocabulary_config import TokenConfig, TokenEmbedding, TokenizerConfig, ZeroEmbedding


@dataclass
class Vocabulary:
    """The vocabulary of a result, and each model's place in it."""

    config: TokenizerConfig
    tokenizer: Any
    tokens: dict[str, int]
    own: dict[str, dict[str, int]]
    """For each model, the row of each token that it has an embedding of."""
    raw: dict[str, dict[str, int]]
    """For each model, its tokenizer's vocabulary."""
    names: frozenset[str]
    """The tensors that have a row for each token."""
    size: int = field(init=False)

    def __post_init__(self) -> None:
        count = max(len(self.tokens), 1 + max(self.tokens.values(), default=-1))
        multiple = self.config.pad_to_multiple_of or 1
        self.size = -(-count // multiple) * multiple

    def info(self, info: TensorInfo) -> TensorInfo:
        return TensorInfo((self.size, *info.shape[1:]), info.dtype)

    def aligned(self, tensors: Mapping[str, Tensor], base: str | None) -> dict[str, Tensor]:
        """The models' embeddings (rows first) in the result's vocabulary, all of one dtype."""
        dtype = next(iter(tensors.values())).dtype
        for tensor in tensors.values():
            dtype = torch.promote_types(dtype, tensor.dtype)
        typed = {model: tensor.to(dtype) for model, tensor in tensors.items()}
        made = {model: self._own_rows(model, tensor) for model, tensor in typed.items()}
        for token, models in self._lacking(tensors).items():
            row = self._row(token, typed, base)
            for model in models:
                made[model][self.tokens[token]] = row
        for tensor in made.values():
            self._pad(tensor)
        return made

    def _own_rows(self, model: str, tensor: Tensor) -> Tensor:
        made = torch.zeros(self.size, *tensor.shape[1:], dtype=tensor.dtype)
        shared = [token for token in self.tokens if token in self.own[model]]
        target = torch.tensor([self.tokens[token] for token in shared], dtype=torch.long)
        made[target] = tensor[torch.tensor([self.own[model][token] for token in shared], dtype=torch.long)]
        return made

    def _lacking(self, models: Iterable[str]) -> dict[str, list[str]]:
        """Those of the models that do not keep their own embedding, by token."""
        forced = {token for token, config in self.config.tokens.items() if config.force}
        lacking = {
            token: [model for model in models if token in forced or token not in self.own[model]]
            for token in self.tokens
        }
        return {token: without for token, without in lacking.items() if without}

    def _row(self, token: str, tensors: Mapping[str, Tensor], base: str | None) -> Tensor:
        config = self.config.tokens.get(token, TokenConfig())
        if config.source is not None:
            return self._chosen(token, config.source, tensors)
        having = [model for model in tensors if token in self.own[model]]
        if not having:
            return torch.zeros_like(next(iter(tensors.values()))[0])
        if len(having) > 1 and base in having:
            having = [base]
        rows = [tensors[model][self.own[model][token]] for model in having]
        total = rows[0].clone()
        for row in rows[1:]:
            total += row
        return total / len(rows)

    def check(self, rows: Mapping[str, int]) -> None:
        """Raises UserError for a token whose embedding is to come from where none is; ``rows`` are each model's."""
        for token in self._lacking(rows):
            config = self.config.tokens.get(token, TokenConfig())
            if config.source is not None and not isinstance(config.source, ZeroEmbedding):
                self._place(token, config.source, rows)

    def _chosen(
        self, token: str, source: ZeroEmbedding | TokenEmbedding | str, tensors: Mapping[str, Tensor]
    ) -> Tensor:
        if isinstance(source, ZeroEmbedding):
            return torch.zeros_like(next(iter(tensors.values()))[0])
        model, index = self._place(token, source, {model: tensor.shape[0] for model, tensor in tensors.items()})
        return tensors[model][index]

    def _place(self, token: str, source: TokenEmbedding | str, rows: Mapping[str, int]) -> tuple[str, int]:
        """The model and the row of it that hold an embedding."""
        model = source.model if isinstance(source, TokenEmbedding) else source
        if model not in rows:
            raise UserError(f"tokenizer.tokens.{token}: {model} is not among the models: {listed(rows)}")
        index = self._index(token, source, model)
        if index is None or index >= rows[model]:
            raise UserError(f"tokenizer.tokens.{token}: {model} has no embedding of {_wish(token, source)}")
        return model, index

    def _index(self, token: str, source: TokenEmbedding | str | None, model: str) -> int | None:
        if not isinstance(source, TokenEmbedding):
            return self.own[model].get(token)
        return source.token_id if source.token is None else self.raw[model].get(source.token)

    def _pad(self, tensor: Tensor) -> None:
        used = torch.zeros(self.size, dtype=torch.bool)
        used[list(self.tokens.values())] = True
        if not used.all():
            tensor[~used] = tensor[used].mean(dim=0)


def _wish(token: str, source: Any) -> str:
    if isinstance(source, TokenEmbedding):
        return f"the token {source.token!r}" if source.token is not None else f"the number {source.token_id}"
    return f"{token!r}"


def make_vocabulary(
    config: TokenizerConfig, inputs: Mapping[str, Input], base: str, places: Mapping[str, Path]
) -> Vocabulary:
    """The vocabulary that a recipe asks for, over these models; ``base`` is the template of the result.

    A model without a tokenizer is taken to have the base's. Raises UserError where the base has none, where no tensor
    with a row for each token is found, or where a token's embedding is to come from where none is.
    """
    with quiet_tokenizers():
        loaded = {reference: load_tokenizer(entry.checkpoint) for reference, entry in inputs.items()}
        if loaded[base] is None:
            raise UserError(f"tokenizer: {base} has no tokenizer")
        tokenizers = {base: loaded[base], **{r: t for r, t in loaded.items() if t is not None}}
        names = vocabulary_names(inputs[base])
        rows = {reference: _rows(entry, names) for reference, entry in inputs.items()}
        made = result_tokenizer(config, tokenizers, rows, base, places)
    raw = {reference: (loaded[reference] or loaded[base]).get_vocab() for reference in inputs}
    own = {ref: {token: i for token, i in raw[ref].items() if i < rows[ref]} for ref in inputs}
    vocabulary = Vocabulary(config, made, made.get_vocab(), own, raw, names)
    vocabulary.check(rows)
    return vocabulary


def _rows(entry: Input, names: frozenset[str]) -> int:
    found = [entry.tensors[name].shape[0] for name in names if name in entry.tensors]
    if not found:
        raise UserError(f"tokenizer: {entry.reference} has none of the embeddings {listed(names)}")
    return min(found)


def vocabulary_names(template: Input) -> frozenset[str]:
    """The input and output embeddings and their biases: by what transformers calls them, and by name."""
    found = frozenset(_by_model(template)) | frozenset(_by_name(template))
    if not found:
        raise UserError(f"tokenizer: {template.reference}: found no embeddings of tokens")
    return found


def _by_name(template: Input) -> list[str]:
    patterns = (INPUT_EMBEDDING, OUTPUT_EMBEDDING)
    return [name for name in template.tensors if not layer_of(name) and any(p.search(name) for p in patterns)]


def _by_model(template: Input) -> list[str]:
    """The parameters of transformers' model that its input and output embeddings hold, by their names on disk."""
    model = _skeleton(template)
    if model is None:
        return []
    modules = [model.get_input_embeddings(), model.get_output_embeddings()]
    held = {id(p) for module in modules if module is not None for p in module.parameters(recurse=False)}
    named = model.named_parameters(remove_duplicate=False)
    known = [name for name, parameter in named if id(parameter) in held]
    return [own for own in template.tensors for name in known if own == name or _tail(own) == _tail(name) != ""]


def _tail(name: str) -> str:
    """The last three parts of a name, by which a tensor is known where prefixes differ."""
    return ".".join(name.split(".")[-3:]) if name.count(".") > 1 else ""


def _skeleton(template: Input) -> Any:
    """transformers' model without weights; None where it has none for the checkpoint."""
    folder = template.checkpoint.folder
    if folder is None or not (folder / "config.json").exists():
        return None
    import transformers

    try:
        config = transformers.AutoConfig.from_pretrained(folder)
        kind = getattr(transformers, (config.architectures or ["AutoModel"])[0])
        with torch.device("meta"):
            model = kind(config) if hasattr(kind, "forward") else kind.from_config(config)
        model.tie_weights()
    except Exception:  # Whatever keeps transformers from it, names then decide.
        return None
    return model
