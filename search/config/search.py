"""The ``search`` section of a config: the budget, the samplers, racing, soups and the gradient start."""

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from mergesearch.errors import nearest
from mergesearch.parsing import INTEGER_BITS, Strict
from mergesearch.search.config.soup import SoupKind
from mergesearch.search.samplers import SAMPLERS
from mergesearch.search.samplers.schedule import AUTO, Stage, Tuning
from mergesearch.text import quoted


def _known_sampler(name: str) -> str:
    if name != AUTO and name not in SAMPLERS:
        raise ValueError(f"there is no sampler {name!r}{nearest(name, (AUTO, *SAMPLERS))}")
    return name


def _outlives_process(url: str) -> str:
    """Refuses what is no URL, and SQLite in memory, whose trials no other process sees, and which ends with its own."""
    kind, separator, place = url.partition("://")
    if not kind or not separator or not url.isprintable():
        raise ValueError(f"found {quoted(url)}, expected the URL of a database, as sqlite:///study.db")
    in_memory = place in ("", "/") or any(word in place for word in (":memory:", "mode=memory"))
    if kind.partition("+")[0] == "sqlite" and in_memory:
        raise ValueError(f"found {quoted(url)}, a database in memory; expected one in a file, as in sqlite:///study.db")
    return url


def _is_a_store(url: str) -> str:
    """Refuses what is no folder or bucket."""
    kind, separator, place = url.partition("://")
    is_known = kind in ("file", "s3", "gs") if separator else bool(url)
    if not is_known or not url.isprintable() or (kind in ("s3", "gs") and not place.strip("/")):
        raise ValueError(f"found {quoted(url)}, expected a folder, s3://BUCKET/PREFIX or gs://BUCKET/PREFIX")
    return url


class Racing(Strict):
    """Racing: worse candidates stop early. ``error`` bounds the probability of dropping a better candidate.

    Better is better by more than ``least_gain``, in units of the objective. ``first_block`` is the number of items that
    a candidate is scored on before the first test.
    """

    error: float = Field(0.05, gt=0, le=0.5)
    least_gain: float = Field(0.0, ge=0, allow_inf_nan=False)
    first_block: int = Field(32, ge=1)


def _read_racing(data: Any) -> Any:
    """``racing: true`` means the defaults; ``racing: false`` scores every candidate in full."""
    return Racing() if data is True else data


class Gradient(Strict):
    """The gradient start: up to ``steps`` steps of Adam, each on the share ``items`` of the search items.

    ``points`` is the number of legs. The end of each leg becomes a trial; the next leg follows where the trial is
    better than the leg's beginning on a quarter of the items, which no leg follows. ``learning_rate`` is the first step
    of the first leg, as a share of each range; every leg halves it. ``loss`` is one less the ``graded`` scores (the
    default of tasks with margins), that of the items' ``targets`` (of others that have any), or the ``entropy`` of the
    predictions.
    """

    steps: int = Field(64, ge=1)
    items: float = Field(0.125, gt=0, le=1)
    learning_rate: float = Field(0.15, gt=0, le=1)
    points: int = Field(4, ge=1)
    loss: Literal["graded", "targets", "entropy"] | None = None

    @model_validator(mode="after")
    def _points_are_steps(self) -> "Gradient":
        if self.points > self.steps:
            raise ValueError(f"points: found {self.points}, expected no more than the {self.steps} steps")
        return self


_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0}


def _read_duration(data: Any) -> Any:
    """Seconds as a number, or a duration such as ``2h30m``, ``90m`` or ``45s``."""
    if not isinstance(data, str):
        return data
    found = re.fullmatch(r"(?:(?P<h>[\d.]+)h)?\s*(?:(?P<m>[\d.]+)m)?\s*(?:(?P<s>[\d.]+)s?)?", data.strip())
    try:
        parts = {unit: float(number) for unit, number in found.groupdict().items() if number} if found else {}
    except ValueError:
        parts = {}
    if not parts:
        raise ValueError(f"found {quoted(data)}, expected seconds, or a duration such as 2h30m, 90m or 45s")
    return sum(_UNITS[unit] * number for unit, number in parts.items())


class Search(Tuning):
    """The budget and the samplers. ``trials`` counts all trials of a run, baselines included.

    The search ends at whichever comes first: ``trials``; ``timeout``, in seconds or as ``2h30m``, of the time in which
    trials were in work, over all sessions (the last trial is finished; loading and verdict come on top); and, once the
    baselines are scored, ``patience`` trials without a new best, or a score of at least ``target``.

    A candidate that takes longer than ``trial_timeout`` to build and score fails, and the search goes on.

    ``levels`` searches coarse to fine before the sampler: ``all`` levels, ``none``, or ``auto``, all with the sampler
    ``auto``.

    ``storage`` is the database of the study; with ``artifacts``, a folder or bucket, the run's files are there, so that
    workers share nothing else.

    ``sampler`` is used for the whole run, or ``schedule`` is a list of stages. ``start: gradient`` scores the points of
    a gradient descent on the search items first; ``auto`` does so where it pays. ``soups`` are scored after the
    baselines.
    """

    trials: int = Field(60, ge=1, le=1_000_000)
    soups: list[SoupKind] = Field(default_factory=list)
    timeout: Annotated[float, Field(gt=0), BeforeValidator(_read_duration)] | None = None
    trial_timeout: Annotated[float, Field(gt=0), BeforeValidator(_read_duration)] | None = None
    patience: int | None = Field(None, ge=1)
    target: float | None = None
    sampler: Annotated[str, AfterValidator(_known_sampler)] = AUTO
    schedule: list[Stage] | None = Field(None, min_length=1)
    levels: Literal["auto", "all", "none"] = "auto"
    start: Literal["auto", "gradient", "none"] = "auto"
    gradient: Gradient = Gradient()
    signal: Literal["auto", "graded", "metric"] = "auto"
    seed: int = Field(0, ge=0, lt=1 << INTEGER_BITS - 1)
    storage: Annotated[str, AfterValidator(_outlives_process)] | None = None
    artifacts: Annotated[str, AfterValidator(_is_a_store)] | None = None
    racing: Annotated[Racing | Literal[False], BeforeValidator(_read_racing)] = Racing()

    @model_validator(mode="after")
    def _one_plan(self) -> "Search":
        if self.artifacts and not (self.storage or "").startswith("postgresql"):
            found = f"storage: {self.storage.partition(':')[0]}" if self.storage else "no storage"
            raise ValueError(
                f"artifacts: found beside {found}, expected a PostgreSQL database, whose locks protect the run: "
                "storage: postgresql+psycopg://USER@HOST/DATABASE"
            )
        if self.schedule and self.sampler != AUTO:
            raise ValueError("found both sampler and schedule, expected one of them")
        for index, stage in enumerate((self.schedule or [])[:-1]):
            if stage.trials is None:
                raise ValueError(f"schedule[{index}].trials: is missing; only the last stage may go on to the end")
        if self.schedule:
            self.check_owner("schedule: give it to the stage")
        elif self.sampler != AUTO:
            self.check_owner(self.sampler)
        return self
