"""The ``recover`` section of a recipe: what is done to the merged model with its parents' outputs on texts."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from mergesearch.errors import UserError, listed
from mergesearch.merge_ops.checkpoint.references import ModelName
from mergesearch.parsing import Strict

EXPERTS = "experts"
FOR_ALL = ""
NAME_DIGITS = 16
"""A passage is named by so many digits of the SHA-256 of its text."""
LEARNING_RATES = {False: 1e-3, True: 1e-4}
"""The default learning rate, by whether all weights are trained."""


def _one_as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) and value != EXPERTS else value


class Recovery(Strict):
    """A short training of the merged model by its parents, each on texts of its own domain; or a fit in closed form.

    Attributes:
        how: ``distill`` trains; ``surgery`` fits a low-rank correction of each linear layer.
        data: texts without labels: those of each parent, by its reference; or one text for all, of which each part is
            taught by the parent that predicts it best.
        parents: ``experts`` are the models of the recipe; or a list of them. The key is ``from``.
        rank: that of the changes: of LoRA, or of the corrections.
        full: train all weights instead.
        steps: the number of steps. Each has ``batch_size`` sequences of each parent.
        batch_size: see ``steps``.
        length: the number of tokens of a sequence, at most.
        learning_rate: that of the first step after the warm-up. None: see ``LEARNING_RATES``.
        schedule: ``cosine``: the rate falls to 0; ``constant``.
        temperature: divides the logits of both models.
        hidden: the weight of the distance of the hidden states in the loss.
        tokens: of each parent, for surgery.
        ridge: for surgery, relative to the mean square of a layer's inputs.
        seed: of all random choices.
        without: passages that are left out, by the first ``NAME_DIGITS`` digits of their SHA-256.
        digest: of the texts, if these must be the same as before.
    """

    how: Literal["distill", "surgery"] = "distill"
    data: str | dict[ModelName, str]
    parents: Annotated[Literal["experts"] | list[ModelName], BeforeValidator(_one_as_list)] = Field(
        "experts", alias="from"
    )
    rank: int = Field(8, ge=1)
    full: bool = False
    steps: int = Field(100, ge=1)
    batch_size: int = Field(4, ge=1)
    length: int = Field(256, ge=2)
    learning_rate: float | None = Field(None, gt=0)
    schedule: Literal["cosine", "constant"] = "cosine"
    temperature: float = Field(1.0, gt=0)
    hidden: float = Field(0.0, ge=0)
    tokens: int = Field(16_384, ge=2)
    ridge: float = Field(1e-4, gt=0)
    seed: int = Field(0, ge=0)
    without: list[str] = Field(default_factory=list)
    digest: str | None = Field(None, pattern="^[0-9a-f]{64}$")

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.full and "rank" in self.model_fields_set:
            raise ValueError("found both rank and full, expected one of them")
        others = ("full", "steps", "batch_size", "learning_rate", "schedule", "temperature", "hidden")
        wrong = others if self.how == "surgery" else ("tokens", "ridge")
        for key in wrong:
            if key in self.model_fields_set:
                raise ValueError(f"{key}: is not for how: {self.how}")
        return self

    @property
    def sequences(self) -> int:
        """How many sequences of each parent are asked for."""
        return self.steps * self.batch_size if self.how == "distill" else max(1, self.tokens // self.length)

    @property
    def rate(self) -> float:
        """The learning rate."""
        return self.learning_rate or LEARNING_RATES[self.full]

    @model_serializer(mode="wrap")
    def _with_keys(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        data: dict[str, Any] = handler(self)
        return {"from" if key == "parents" else key: value for key, value in data.items()}

    def parents_of(self, experts: Sequence[str], base: str | None) -> list[str]:
        """The references of the parents of a merge of ``experts``.

        Raises:
            UserError: a parent is neither one of these nor ``base``, or has no text.
        """
        chosen = list(experts) if self.parents == EXPERTS else list(self.parents)
        valid = list(dict.fromkeys([*experts, *([base] if base else [])]))
        if strangers := [name for name in chosen if name not in valid]:
            raise UserError(f"recover.from: {listed(strangers)}: no model of the recipe, which has {listed(valid)}")
        if isinstance(self.data, str):
            return chosen
        if strangers := [name for name in self.data if name not in chosen]:
            raise UserError(f"recover.data: {listed(strangers)}: no parent; the parents are {listed(chosen)}")
        if missing := [name for name in chosen if name not in self.data]:
            raise UserError(f"recover.data: has no text for {listed(missing)}; give it one, or list the others in from")
        return chosen

    def paths_of(self, parents: Sequence[str]) -> dict[str, str]:
        """The paths of the texts by parent; under ``FOR_ALL`` that of one text for all."""
        return {FOR_ALL: self.data} if isinstance(self.data, str) else {name: self.data[name] for name in parents}
