"""The example notebook runs from top to bottom, and shows what it says. It is stored without outputs."""

from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

FILE = Path(__file__).parents[2] / "examples" / "first_search.ipynb"
ITEMS = 'items[(items["split"] == "test") & (items[winner] > items[single])].head()'
TRIALS = 'run.trials.sort_values("value", ascending=False)[columns].head()'
PLOTLY = "application/vnd.plotly.v1+json"


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """What each cell puts out, by the last line of its code."""
    folder = tmp_path_factory.mktemp("notebook")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(folder))
        patch.setenv("OMP_NUM_THREADS", "1")
        book = nbformat.read(FILE, as_version=4)
        NotebookClient(book, timeout=600, resources={"metadata": {"path": str(folder)}}).execute()
    return {cell.source.splitlines()[-1]: cell.outputs for cell in book.cells if cell.cell_type == "code"}


def output_of(executed: dict[str, list[Any]], line: str) -> dict[str, Any]:
    """The output of the cell with this last line, by its types: the only one, so that nothing is printed beside it."""
    (output,) = executed[line]
    return dict(output["data"])


def test_it_is_stored_without_outputs() -> None:
    book = nbformat.read(FILE, as_version=4)
    nbformat.validate(book)
    for cell in book.cells:
        if cell.cell_type == "code":
            assert (cell.outputs, cell.execution_count) == ([], None), cell.source


def test_it_shows_the_check_and_the_verdict(executed: dict[str, list[Any]]) -> None:
    check = output_of(executed, "mergesearch.check(config)")
    assert "4 dimensions" in check["text/html"]
    assert "<table>" in output_of(executed, "run")["text/html"]
    assert len(output_of(executed, "run")["text/plain"]) < 200, "its config and its verdict are not spelled out"
    assert "subtraction" in output_of(executed, 'mergesearch.evaluate(folder / "merged", config)')["text/html"]


def test_it_shows_the_search_while_it_goes(executed: dict[str, list[Any]]) -> None:
    progress, plot = executed['run = mergesearch.run(config, folder / "runs", progress=True)']
    assert "trials 40/40; best " in progress["data"]["text/html"]
    assert "<progress value=40 max=40" in progress["data"]["text/html"]
    names = {trace["name"] for trace in plot["data"][PLOTLY]["data"]}
    assert {"baseline", "best so far"} <= names
    marks = [trace for trace in plot["data"][PLOTLY]["data"] if trace["mode"] == "markers"]
    assert sum(len(trace["x"]) for trace in marks) == 40


def test_it_shows_figures_and_items(executed: dict[str, list[Any]]) -> None:
    figures = executed['run.figures["course-by-trial"].show()']
    assert [PLOTLY in each["data"] for each in figures] == [True, True]
    assert "question" in output_of(executed, ITEMS)["text/html"]
    assert "values.addition" in output_of(executed, TRIALS)["text/html"]
