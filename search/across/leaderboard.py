"""All finalists of all runs in tables, each of runs that measured the same."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mergesearch.errors import UserError, listed
from mergesearch.search.across.finalists import FINALISTS, Finalist, Finalists, FinalTask
from mergesearch.search.statistics import LEVEL, Estimate, difference_of, estimated, sign_flip_test, value_of
from mergesearch.search.study.run_folder import CONFIG
from mergesearch.seeds import derive


@dataclass(frozen=True)
class LeaderboardRow:
    """One model. ``rank`` is one more than the number of rows that are proven to be better, so that rows share a rank.

    ``runs`` are all that have it, ``names`` what it is called there, ``roles`` what it is: winner, parent, baseline or
    soup. ``value`` is the objective on the test items, ``tasks`` each task's metric, ``normalized`` the same, 0 for
    guessing and 1 at most, where that is known.
    """

    rank: int
    names: Sequence[str]
    runs: Sequence[str]
    roles: Sequence[str]
    method: str
    value: Estimate
    tasks: dict[str, float]
    normalized: dict[str, float]
    parameters: int
    scored: str

    @property
    def name(self) -> str:
        """What the model is called, with the run where it was made there."""
        return self.names[0] if "parent" in self.roles else f"{self.runs[0]}: {self.names[0]}"


@dataclass(frozen=True)
class LeaderboardTable:
    """Runs that measured the same: items, prompts, versions of tasks, and objective, whose digest is ``content``."""

    content: str
    tasks: Sequence[FinalTask]
    aggregate: str
    items: int
    runs: Sequence[str]
    rows: Sequence[LeaderboardRow]


@dataclass(frozen=True)
class Leaderboard:
    """The tables, that with most rows first. ``notes`` say which runs are not in them, and why."""

    tables: Sequence[LeaderboardTable]
    notes: Sequence[str] = ()


def leaderboard(results: Sequence[Path]) -> Leaderboard:
    """The finalists of the runs in these folders, at any depth. Raises UserError where there are none."""
    folders = list(dict.fromkeys(folder for path in results for folder in _runs(path)))
    notes: list[str] = []
    by_content: dict[str, list[Finalists]] = {}
    for folder in folders:
        try:
            found = Finalists.read(folder)
            by_content.setdefault(found.content, []).append(found)
        except UserError as error:
            notes.append(f"left out: {error}")
    if not by_content:
        where = listed(map(str, results))
        raise UserError(f"{where}: no finished run is there{''.join(f'; {note}' for note in notes)}")
    tables = [_table(content, runs) for content, runs in by_content.items()]
    return Leaderboard(sorted(tables, key=lambda table: -len(table.rows)), notes)


def _runs(path: Path) -> list[Path]:
    """The folders of runs below a path, itself included. Raises UserError where there is no such folder."""
    if not path.is_dir():
        raise UserError(f"{path}: there is no such folder; expected one like results/runs, or a run in it")
    files = [file for name in (FINALISTS, CONFIG) for file in path.rglob(name)]
    return sorted({file.parent for file in files if (file.parent / CONFIG).is_file()})


@dataclass(frozen=True)
class _Entry:
    """A model as one run has it."""

    run: Finalists
    finalist: Finalist


def _table(content: str, runs: Sequence[Finalists]) -> LeaderboardTable:
    by_weights: dict[str, list[_Entry]] = {}
    for run in runs:
        for finalist in run.about.candidates:
            by_weights.setdefault(finalist.weights, []).append(_Entry(run, finalist))
    about = runs[0].about
    rows = _ranked(list(by_weights.values()))
    items = sum(part == "" for part in runs[0].columns["part"])
    return LeaderboardTable(content, about.tasks, about.aggregate, items, [run.folder.name for run in runs], rows)


def _ranked(models: Sequence[Sequence[_Entry]]) -> list[LeaderboardRow]:
    """The rows, best first, with their ranks."""
    combine, seed = models[0][0].run.objective.combine, derive(0, "sign flips")
    strata = [entries[0].run.strata(entries[0].finalist.trial) for entries in models]
    contrasts = [value_of(each, combine) for each in strata]
    order = sorted(range(len(models)), key=lambda n: -contrasts[n].value)
    rows = []
    for place, n in enumerate(order):
        better = order[:place]
        tests = sign_flip_test([difference_of(strata[m], strata[n], combine) for m in better], seed) if better else []
        proven = sum(test.p < LEVEL and test.estimate.value > 0 for test in tests)
        rows.append(_row(models[n], 1 + proven, estimated(contrasts[n], seed)))
    return sorted(rows, key=lambda row: row.rank)


def _row(entries: Sequence[_Entry], rank: int, value: Estimate) -> LeaderboardRow:
    entries = sorted(entries, key=lambda entry: entry.finalist.role != "parent")
    run, first = entries[0].run, entries[0].finalist
    finalists = [entry.finalist for entry in entries]
    return LeaderboardRow(
        rank,
        list(dict.fromkeys(each.name for each in finalists)),
        list(dict.fromkeys(entry.run.folder.name for entry in entries)),
        list(dict.fromkeys(each.role for each in finalists)),
        first.method,
        value,
        run.values(first.trial),
        run.normalized(first.trial),
        first.parameters,
        min(each.scored for each in finalists),
    )
