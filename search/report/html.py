"""The report of a run: one HTML page that needs no network. Its sections are in ``sections``, its looks in ``page``."""

from collections.abc import Callable
from pathlib import Path

from mergesearch.files import write_text
from mergesearch.search.report.page.document import document, is_whole
from mergesearch.search.report.sections.candidates import candidates
from mergesearch.search.report.sections.comparisons import comparisons, evidence
from mergesearch.search.report.sections.course import course
from mergesearch.search.report.sections.flips import flips_section
from mergesearch.search.report.sections.front import front
from mergesearch.search.report.sections.headline import headline
from mergesearch.search.report.sections.influence import influence
from mergesearch.search.report.sections.layers import layers
from mergesearch.search.report.sections.prospects import prospects
from mergesearch.search.report.sections.provenance import provenance
from mergesearch.search.report.sections.recipes import recipes
from mergesearch.search.study.run_folder import RunFolder
from mergesearch.search.study.run_store import RunStore
from mergesearch.search.verdict.result import Verdict, held_verdict
from mergesearch.text import as_html

FILE = "report.html"
Section = Callable[[RunStore, Verdict], str]
SECTIONS: tuple[Section, ...] = (
    headline,
    candidates,
    front,
    comparisons,
    evidence,
    layers,
    flips_section,
    prospects,
    course,
    influence,
    recipes,
    provenance,
)
"""The page from top to bottom. Each gives HTML, or nothing where it has nothing to show."""


def write_report(store: RunStore, verdict: Verdict) -> None:
    """Writes ``report.html`` to the run's folder. The same folder, study and verdict give the same bytes."""
    name = store.folder.path.name
    body = "".join(each(store, verdict) for each in SECTIONS)
    write_text(store.folder.path / FILE, document(f"{name}: report", f"<h1>{as_html(name)}</h1>{body}"))


def rewrite_report(folder: Path) -> None:
    """Writes the report of a finished run anew from its folder, without a model or a task.

    Raises UserError where the run has no verdict.
    """
    run = RunFolder(folder)
    with run.reading():
        verdict = held_verdict(folder)
        write_report(RunStore(run, run.open_study(run.storage), {}), verdict)


def is_whole_report(folder: Path) -> bool:
    """Whether the run's folder has a report, and it is what was written."""
    file = folder / FILE
    return file.is_file() and is_whole(file.read_bytes())
