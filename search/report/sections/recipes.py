"""The two recipes that a run hands over, and the commands that go on from them."""

from pathlib import Path
from shlex import join

from mergesearch.search.report.page.elements import code, note, section
from mergesearch.search.study import trials as t
from mergesearch.search.study.run_folder import CONFIG
from mergesearch.search.study.run_store import RunStore
from mergesearch.search.verdict.result import CandidateRow, Verdict, shown_name


def recipes(store: RunStore, verdict: Verdict) -> str:
    """The recommended recipe, the best one of the search where that is another, and the commands."""
    winner, recommended = verdict.winner, verdict.recommended_row
    others = [] if winner.trial == recommended.trial else [(winner, "best.yml", "best of the search")]
    return "".join(
        _recipe(store, *each) for each in [(recommended, "recommended.yml", "recommended recipe"), *others]
    ) + _commands(store)


def _recipe(store: RunStore, row: CandidateRow, file: str, what: str) -> str:
    trial = store.study.get_trials(deepcopy=False)[row.trial]
    title = f"{what[0].upper()}{what[1:]}: {shown_name(row)}"
    return section(title, note(f"In the run's folder: {file}."), code(t.recipe_of(trial).to_yaml(), what))


def _commands(store: RunStore) -> str:
    path = store.folder.path
    folder = Path(path.name) if path.is_absolute() else path
    lines = [
        "# the model of the recommended recipe, bit for bit as it was scored",
        join(["mergesearch", "merge", str(folder / "recommended.yml"), "merged"]),
        "# its scores on all items of the tasks",
        join(["mergesearch", "eval", "merged", str(folder / CONFIG)]),
        "# uploads the recommended model to a private repository of the Hugging Face Hub",
        join(["mergesearch", "push", str(folder), path.name]),
    ]
    return section(
        "Commands",
        note("To be started where the run was started."),
        code("\n".join(lines) + "\n", "commands that go on from here"),
    )
