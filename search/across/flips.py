"""Flips: the test items that a run's winner wins from another candidate, or loses to it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mergesearch.evaluators import Document
from mergesearch.search.across.finalists import Finalists


@dataclass(frozen=True)
class Given:
    """What a candidate's answer to an item adds to the metric, such as 1 or 0, and the answer, if it is known."""

    trial: int
    worth: float
    answer: str


@dataclass(frozen=True)
class FlippedItem:
    """A test item on which candidates differ.

    Attributes:
        task: the task's name.
        item: the item's id.
        document: what it asks.
        given: what each candidate gave, the winner first.
        won: the trials of the candidates that the winner does better than.
        lost: the trials of those that do better than the winner.
    """

    task: str
    item: str
    document: Document
    given: Sequence[Given]
    won: Sequence[int]
    lost: Sequence[int]


@dataclass(frozen=True)
class _Difference:
    """One item and one other candidate: how much better the winner is; 1 at most for 0/1 answers."""

    place: int
    trial: int
    gain: float


def flips(found: Finalists, others: Sequence[int], most: int) -> tuple[list[FlippedItem], dict[int, tuple[int, int]]]:
    """The items that turn between the winner and the others, and for each other how many are won and lost in all.

    At most ``most`` items each way and pair are given: the largest differences in units of the task's spread, and of
    equal ones any, by the digests of their documents, which no order of the data decides.
    """
    chosen: dict[int, None] = {}
    counts: dict[int, tuple[int, int]] = {}
    for trial in others:
        differences = list(_differences(found, trial))
        won = [each for each in differences if each.gain > 0]
        lost = [each for each in differences if each.gain < 0]
        counts[trial] = len(won), len(lost)
        for side in (won, lost):
            side.sort(key=lambda each: (-abs(each.gain), found.columns["document"][each.place]))
            chosen |= dict.fromkeys(each.place for each in side[:most])
    return [_item(found, place, others) for place in chosen], counts


def _differences(found: Finalists, trial: int) -> Iterator[_Difference]:
    """The items that the winner and another candidate differ on."""
    for task in found.about.tasks:
        mine, theirs = found.contributions(task.name, found.about.winner), found.contributions(task.name, trial)
        sign = 1 if task.higher_is_better else -1
        scale = float(max(abs(mine - theirs), default=0.0)) or 1.0
        gains = sign * (mine - theirs) / scale
        for place, gain in zip(found.places(task.name), gains.tolist(), strict=True):
            if gain:
                yield _Difference(place, trial, gain)


def _item(found: Finalists, place: int, others: Sequence[int]) -> FlippedItem:
    columns, winner = found.columns, found.about.winner
    task, item = columns["task"][place], columns["item"][place]
    given = [Given(trial, columns[str(trial)][place], found.answer(trial, place)) for trial in (winner, *others)]
    direction = next(1 if each.higher_is_better else -1 for each in found.about.tasks if each.name == task)
    gains = {each.trial: direction * (given[0].worth - each.worth) for each in given[1:]}
    return FlippedItem(
        task,
        item,
        found.documents[task, item],
        given,
        [trial for trial, gain in gains.items() if gain > 0],
        [trial for trial, gain in gains.items() if gain < 0],
    )
