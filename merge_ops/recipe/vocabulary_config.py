"""The ``tokenizer`` part of a recipe: where the result's vocabulary and its embeddings come from."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from mergesearch.merge_ops.checkpoint.references import ModelName
from mergesearch.merge_ops.recipe.settings import nothing_is
from mergesearch.parsing import Strict


class ZeroEmbedding(Strict):
    """Zeros."""

    kind: Literal["zero"]


class TokenEmbedding(Strict):
    """The embedding of one token of one model, by text or number."""

    kind: Literal["model_token"]
    model: ModelName
    token_id: int | None = Field(default=None, ge=0)
    token: str | None = None

    @model_validator(mode="after")
    def _one_token(self) -> "TokenEmbedding":
        if (self.token_id is None) == (self.token is None):
            raise ValueError("expected one of token_id and token")
        return self


def _read_source(value: Any) -> Any:
    if not isinstance(value, dict) or "kind" not in value:
        return value
    kinds: dict[str, type[Strict]] = {"zero": ZeroEmbedding, "model_token": TokenEmbedding}
    if value["kind"] not in kinds:
        raise ValueError(f"kind: found {value['kind']!r}, expected zero or model_token")
    return kinds[value["kind"]].model_validate(value)


class TokenConfig(Strict):
    """The embedding of one token: a model's for the same token, or another's; ``force``: for every model alike."""

    source: Annotated[ZeroEmbedding | TokenEmbedding | ModelName | None, BeforeValidator(_read_source)] = None
    force: bool = False


class TokenizerConfig(Strict):
    """``source``: base, union, or a model. ``pad_to_multiple_of`` rounds the number of rows up."""

    source: ModelName = "union"
    tokens: Annotated[dict[str, TokenConfig], nothing_is(dict)] = Field(default_factory=dict)
    pad_to_multiple_of: int | None = Field(default=None, ge=1)
