"""How a merge to disk talks to the user, and what it lets pass."""

from dataclasses import dataclass

from mergesearch.say import Say, silent


@dataclass(frozen=True)
class MergeOptions:
    """Options of a merge that are not part of its recipe.

    Attributes:
        say: gets the memory plan.
        warn: gets warnings about the recipe and the inputs.
        allow_nan: write tensors that have NaN or infinite values. By default they are an error.
        verify: read every written tensor back from the disk, and compare it.
    """

    say: Say = silent
    warn: Say = silent
    allow_nan: bool = False
    verify: bool = False


DEFAULTS = MergeOptions()
