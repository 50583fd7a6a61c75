"""The verdict of a run for those who watched it."""

from pathlib import Path

from mergesearch.search.optimize.callbacks import Ending
from mergesearch.search.verdict.result import VERDICT, Verdict

FILES = ("report.html", "recommended.yml", "best.yml", VERDICT)


def ending_of(verdict: Verdict, folder: Path) -> Ending:
    """The end of the run in a folder, with the verdict's numbers by name."""
    row = verdict.recommended_row
    values: dict[str, float | str] = {
        "verdict/sentence": verdict.sentence,
        "verdict/recommended": verdict.recommended,
        "verdict/best_baseline": verdict.best_baseline,
        "verdict/is_proven": float(verdict.beyond_chance),
        "verdict/difference": verdict.difference.value,
        "verdict/p": verdict.p,
        "test/objective": row.test.value,
        **{f"test/{task}": value["test"] for task, value in row.tasks.items() if "test" in value},
    }
    files = [folder / name for name in FILES]
    return Ending(values, [file for file in files if file.exists()], verdict.trials)
