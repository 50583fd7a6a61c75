"""A verdict in the terminal: the table of candidates, the headline, and what else there is to say."""

from rich.console import Console

from mergesearch.search.report.screen import CELL, print_table
from mergesearch.search.verdict.formatting import interval
from mergesearch.search.verdict.front import Front
from mergesearch.search.verdict.result import SIDES, CandidateRow, Verdict, cells_of
from mergesearch.search.verdict.wording import looks_in_words, marked_name, notes_in_words, shown_baselines
from mergesearch.text import shown


def print_verdict(screen: Console, verdict: Verdict) -> None:
    """The table of candidates, the headline and the notes."""
    heads = ["", *SIDES, *(f"{shown(task, CELL)}\n{shown(name, CELL)}" for task, name in verdict.metrics.items())]
    baselines = shown_baselines(verdict)
    rows = [*baselines, verdict.winner, *([verdict.ensemble] if verdict.ensemble else [])]
    styles = [*[""] * len(baselines), "bold", *(["dim"] if verdict.ensemble else [])]
    title = "Candidates, with 95 % intervals; tasks on the test items"
    print_table(screen, title, heads, [_cells(row, verdict) for row in rows], styles, numbers=True)
    screen.print(verdict.sentence, style="bold")
    if verdict.front:
        _print_front(screen, verdict.front, verdict.winner.trial)
    for note in notes_in_words(verdict, with_front=True):
        screen.print(note)
    screen.print(looks_in_words(verdict.test_looks - 1))


def _cells(row: CandidateRow, verdict: Verdict) -> list[str]:
    _, *numbers = cells_of(row)
    return [marked_name(verdict, row), *numbers]


def _print_front(screen: Console, front: Front, winner: int) -> None:
    """The front's members: objectives on the test items, and differences from the best baseline."""
    tested = [task for task in front.directions if any(member.standings[task].test for member in front.members)]
    heads = [head for task in tested for head in (f"{task}\n{front.directions[task]}", "− best baseline")]
    rows = []
    for member in front.members:
        marks = [mark for mark, number in (("winner", winner), ("knee", front.knee)) if number == member.trial]
        standings = [member.standings[task] for task in tested]
        cells = [cell for s in standings for cell in (interval(s.test), interval(s.difference, "+"))]
        rows.append([f"{member.name} ({', '.join([member.method, *marks])})", *cells])
    styles = ["bold" if member.trial == winner else "" for member in front.members]
    title = "Pareto front of the search items, scored on the test items"
    print_table(screen, title, ["", *heads], rows, styles, numbers=True)
