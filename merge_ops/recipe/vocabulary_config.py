"""The ``tokenizer`` section of a recipe: the source of the result's vocabulary and of its embeddings."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from mergesearch.merge_ops.checkpoint.references import ModelName
from mergesearch.merge_ops.recipe.parameter_settings import blank_as
from mergesearch.parsing import Strict
from mergesearch.text import quoted


class ZeroEmbedding(Strict):
    """An embedding of zeros."""

    kind: Literal["zero"]


class TokenEmbedding(Strict):
    """The embedding of one token of one model, given by its text or its id."""

    kind: Literal["model_token"]
    model: ModelName
    token_id: int | None = Field(default=None, ge=0)
    token: str | None = None

    @model_validator(mode="after")
    def _has_one_token(self) -> "TokenEmbedding":
        if (self.token_id is None) == (self.token is None):
            raise ValueError("expected either token_id or token")
        return self


def _read_source(value: Any) -> Any:
    if not isinstance(value, dict) or "kind" not in value:
        return value
    kinds: dict[str, type[Strict]] = {"zero": ZeroEmbedding, "model_token": TokenEmbedding}
    if not isinstance(value["kind"], str) or value["kind"] not in kinds:
        raise ValueError(f"kind: found {quoted(value['kind'])}, expected zero or model_token")
    return kinds[value["kind"]].model_validate(value)


Missing = Literal["mean", "subtokens", "omp"]
"""How a model gets the embedding of a token that it lacks; see ``inputs.missing_tokens``."""
ATOMS = 8
"""How many shared tokens ``omp`` combines, by default."""


class TokenConfig(Strict):
    """The embedding of one token.

    Attributes:
        source: a model, for its embedding of the same token; the embedding of another token; or zeros.
        force: also replace the token's embedding in models that have one.
        missing: as for ``TokenizerConfig``, for this token.
    """

    source: Annotated[ZeroEmbedding | TokenEmbedding | ModelName | None, BeforeValidator(_read_source)] = None
    force: bool = False
    missing: Missing | None = None

    @model_validator(mode="after")
    def _has_one_rule(self) -> "TokenConfig":
        if self.missing is not None and (self.source is not None or self.force):
            raise ValueError("found missing beside source or force, expected only one of them")
        return self


class TokenizerConfig(Strict):
    """The vocabulary of the result.

    Attributes:
        source: ``base``, ``union``, or a model.
        tokens: the embeddings of single tokens.
        pad_to_multiple_of: round the number of rows up to a multiple.
        missing: how a model gets the embeddings of tokens that it lacks, where ``tokens`` says nothing of them.
        k: how many shared tokens ``omp`` combines at most. None: ``ATOMS``.
        models: the models whose tokens and embeddings count, the base first. None: those of the recipe.
    """

    source: ModelName = "union"
    tokens: Annotated[dict[str, TokenConfig], blank_as(dict)] = Field(default_factory=dict)
    pad_to_multiple_of: int | None = Field(default=None, ge=1)
    missing: Missing = "mean"
    k: int | None = Field(default=None, ge=1)
    models: Annotated[list[ModelName], blank_as(list)] = Field(default_factory=list)

    @model_validator(mode="after")
    def _uses_k(self) -> "TokenizerConfig":
        if self.k is not None and "omp" not in self.rules:
            raise ValueError("k: is for missing: omp, and no token is filled by that")
        return self

    @property
    def rules(self) -> set[Missing]:
        """The rules for missing tokens that apply to any token."""
        return {self.missing, *(config.missing for config in self.tokens.values() if config.missing)}

    @property
    def atoms(self) -> int:
        """How many shared tokens ``omp`` combines at most."""
        return self.k or ATOMS
