"""Two candidates on the same items: each task's paired difference, with interval and p, and the items that turn."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mergesearch.errors import UserError, listed
from mergesearch.search.across.scored_task import Asked, Measured, ScoredTask
from mergesearch.search.statistics import LEVEL, Array, Estimate, Outcome, difference_of, holm, sign_flip_test
from mergesearch.seeds import derive


@dataclass(frozen=True)
class Flip:
    """An item that one candidate scores higher on than the other.

    ``a`` and ``b`` are what it adds to their metrics: 1 and 0 where a question is answered right or wrong.
    """

    item: str
    a: float
    b: float
    question: str = ""
    right: str = ""
    answer_a: str = ""
    answer_b: str = ""
    choices: Sequence[str] = ()


@dataclass(frozen=True)
class TaskDifference:
    """A task's metric of the two candidates on the items that they share.

    ``difference`` is A − B with its 95 % interval, ``p`` two-sided, ``p_holm`` corrected for the number of tasks that
    were compared. ``wins`` are the items on which A does better, ``losses`` those on which B does, the largest
    differences first.
    """

    task: str
    metric: str
    higher_is_better: bool
    items: int
    clusters: int
    a: float
    b: float
    difference: Estimate
    p: float
    p_holm: float
    wins: Sequence[Flip]
    losses: Sequence[Flip]

    @property
    def better(self) -> str:
        """``A`` or ``B`` where one is proven to be better, by the corrected p; else empty."""
        if self.p_holm >= LEVEL:
            return ""
        return "A" if (self.difference.value > 0) is self.higher_is_better else "B"


@dataclass(frozen=True)
class PairedComparison:
    """Two candidates, task by task. ``notes`` say what was left out, and why."""

    a: str
    b: str
    tasks: Sequence[TaskDifference]
    notes: Sequence[str] = ()

    @property
    def sentence(self) -> str:
        """What is proven, in one sentence."""
        parts = [
            f"{side} is better on {listed(repr(each.task) for each in self.tasks if each.better == side)}"
            for side in ("A", "B")
            if any(each.better == side for each in self.tasks)
        ]
        rest = sum(not each.better for each in self.tasks)
        if not parts:
            return f"No difference is proven on any of {rest} tasks." if rest > 1 else "No difference is proven."
        return f"{'; '.join(parts)}{f'; no difference is proven on {rest}' if rest else ''}."


@dataclass(frozen=True)
class _Shared:
    """The same task of both, with the places of the items that they share."""

    a: ScoredTask
    b: ScoredTask
    places: Sequence[tuple[int, int]]


@dataclass(frozen=True)
class _Measured:
    """A shared task with the two values, what each shared item contributes to them, and the test of the difference."""

    shared: _Shared
    values: tuple[float, float]
    contributions: tuple[Array, Array]
    outcome: Outcome


def compared(a: Measured, b: Measured, any_prompt: bool = False, seed: int = 0) -> PairedComparison:
    """Compares two candidates on every task that both were scored on.

    The test is the verdict's: signs are flipped by cluster. Items that one of them lacks are left out. A task is left
    out where its version differs, or a shared item has another document or right answer, or, unless ``any_prompt``,
    another prompt. Raises UserError where nothing is left.
    """
    notes, measured = [*a.notes, *b.notes], []
    for side, one, two in (("A", a, b), ("B", b, a)):
        if alone := [f"{task} ({metric})" for task, metric in one.tasks.keys() - two.tasks.keys()]:
            notes.append(f"only {side} was scored on {listed(alone)}")
    for key in sorted(a.tasks.keys() & b.tasks.keys()):
        try:
            shared = _shared(a.tasks[key], b.tasks[key], any_prompt)
            measured.append(_measured(shared, seed))
            notes += _items_alone(shared)
        except UserError as error:
            notes.append(f"left out: task {key[0]!r}: {error}")
    if not measured:
        raise UserError(f"nothing to compare: {'; '.join(notes) or 'neither was scored on any task'}")
    corrected = holm([each.outcome.p for each in measured])
    return PairedComparison(a.name, b.name, [*map(_difference, measured, corrected)], notes)


def _shared(a: ScoredTask, b: ScoredTask, any_prompt: bool) -> "_Shared":
    """The items that both have. Raises UserError where they cannot be compared."""
    others = [name for name in a.version.keys() & b.version.keys() if a.version[name] != b.version[name]]
    if others:
        raise UserError(f"its {listed(others)} differs")
    by_id = {item.id: place for place, item in enumerate(b.items)}
    pairs = [(place, by_id[item.id]) for place, item in enumerate(a.items) if item.id in by_id]
    if not pairs:
        raise UserError("the two share no item")
    for what in ("document", "prompt") if not any_prompt else ("document",):
        other = [a.items[n].id for n, m in pairs if getattr(a.items[n], what) != getattr(b.items[m], what)]
        if other:
            advice = "; --any-prompt compares them all the same" if what == "prompt" else ""
            counted = f"{len(other)} of {len(pairs)} items have another {what}"
            raise UserError(f"{counted}, the first is {other[0]}{advice}")
    if any(a.items[n].weight != b.items[m].weight for n, m in pairs):
        raise UserError("its items have other weights")
    return _Shared(a, b, pairs)


def _items_alone(shared: _Shared) -> list[str]:
    """What each has that the other has not, in words."""
    places = [{pair[side] for pair in shared.places} for side in (0, 1)]
    return [
        f"left out: {len(task.items) - len(used)} items of task {task.name!r} that only {side} was scored on"
        for side, task, used in zip("AB", (shared.a, shared.b), places, strict=True)
        if len(task.items) > len(used)
    ]


def _measured(shared: _Shared, seed: int) -> "_Measured":
    (one, mine) = shared.a.stratum([n for n, _ in shared.places])
    (two, theirs) = shared.b.stratum([m for _, m in shared.places])
    difference = difference_of([one], [two], lambda values: values[0])
    outcome = sign_flip_test([difference], derive(seed, "sign flips"))[0]
    return _Measured(shared, (one.value, two.value), (mine, theirs), outcome)


def _difference(measured: _Measured, p_holm: float) -> TaskDifference:
    task, flips = measured.shared.a, sorted(_flips(measured), key=lambda flip: -abs(flip.a - flip.b))
    a, b = measured.values
    return TaskDifference(
        task=task.name,
        metric=task.metric,
        higher_is_better=task.higher_is_better,
        items=len(measured.shared.places),
        clusters=len({task.items[n].cluster for n, _ in measured.shared.places}),
        a=a,
        b=b,
        difference=measured.outcome.estimate,
        p=measured.outcome.p,
        p_holm=p_holm,
        wins=[flip for flip in flips if (flip.a > flip.b) is task.higher_is_better],
        losses=[flip for flip in flips if (flip.a > flip.b) is not task.higher_is_better],
    )


def _flips(measured: _Measured) -> Iterator[Flip]:
    one, two = measured.shared.a.items, measured.shared.b.items
    for (n, m), a, b in zip(measured.shared.places, *(each.tolist() for each in measured.contributions), strict=True):
        if a != b:
            yield _flip(one[n], two[m], a, b)


def _flip(one: Asked, two: Asked, a: float, b: float) -> Flip:
    return Flip(one.id, a, b, one.question, one.right or two.right, one.answer, two.answer, one.choices)
