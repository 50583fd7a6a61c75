"""The keys of a recipe that name steps after the merge."""

from pydantic import Field

from mergesearch.merge_ops.methods import FILE_PARAMETERS
from mergesearch.parsing import Strict

FILE_KEYS = FILE_PARAMETERS | {"data"}
"""The keys of a recipe whose values are paths of files that models run on."""


class Repair(Strict):
    """``repair``: units get the mean and the deviation that they have in the models.

    ``data`` is a text, or a ``.safetensors`` file with inputs. Of a text, ``tokens`` are read. ``builder`` makes models
    that transformers does not know, where the recipe is merged to disk; a search has a builder of its own.
    """

    data: str = Field(min_length=1)
    tokens: int = Field(8192, ge=2, le=2**40)
    builder: str | None = Field(None, min_length=1)
