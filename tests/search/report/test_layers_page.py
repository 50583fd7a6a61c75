"""Which layers come from which model: from a run's table to the terminal and the Python API."""

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import mergesearch
from mergesearch.errors import UserError
from mergesearch.search.cli import main
from mergesearch.search.report.layers_page import coefficient_of
from mergesearch.search.verdict.layers import LAYERS, LayerRow, read_layers

from ..helpers import Data, go


def printed(*arguments: object) -> str:
    found = CliRunner(env={"COLUMNS": "80"}).invoke(main, ["show", *map(str, arguments), "--layers"])
    assert found.exit_code == 0, found.output
    return found.output


def whole(rows: list[LayerRow], trial: int) -> dict[str, LayerRow]:
    return {Path(row.model).name: row for row in rows if row.trial == trial and row.layer is None and not row.module}


def test_layers_of_a_run(config: Data, tmp_path: Path) -> None:
    config["search"]["trials"] = 11
    verdict = go(config, tmp_path)
    folder = tmp_path / "small"
    rows = read_layers(folder)
    assert {row.trial for row in rows} == {verdict.winner.trial, verdict.recommended_row.trial}
    run = mergesearch.Run.read(folder)
    for best, trial in ((run.best, verdict.winner.trial), (run.recommended, verdict.recommended_row.trial)):
        names = {Path(model).name for model in best.recipe.references} - {"base"}
        assert set(whole(rows, trial)) == names
    table = run.layers
    assert len(table) == len(rows)
    assert np.isfinite(table["coefficient"]).all()
    assert set(table["layer"].dropna()) == {0, 1}
    shown = " ".join(printed(folder).split())
    for name in ("whole model", "layer 0", "layer 1", "lm_head", verdict.winner.name):
        assert name in shown
    layer = next(row for row in rows if row.layer == 1 and not row.module)
    assert f"{coefficient_of(layer):+.2f} ({layer.delta:.1%})" in shown


def test_a_stack_shows_where_its_layers_are_from(models: Path, config: Data, tmp_path: Path) -> None:
    one, two = str(models / "one"), str(models / "two")
    scale = {"scale": {"search": [0.9, 1.1]}}
    config["recipe"] = {
        "merge_method": "passthrough",
        "slices": [
            {"sources": [{"model": one, "layer_range": [0, 1], "parameters": scale}]},
            {"sources": [{"model": two, "layer_range": [0, 2], "parameters": scale}]},
        ],
    }
    config["search"]["trials"] = 9
    config["output"]["model"] = False
    verdict = go(config, tmp_path)
    winner = [row for row in read_layers(tmp_path / "small") if row.trial == verdict.winner.trial and not row.module]
    assert [(row.layer, Path(row.model).name, row.source) for row in winner if row.layer is not None] == [
        (0, "one", 0),
        (1, "two", 0),
        (2, "two", 1),
    ]
    assert all(0.8 < row.coefficient < 1.2 for row in winner)
    assert "layer 1" in printed(tmp_path / "small")


def test_a_run_without_the_table(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"has no {LAYERS}; run its config to its end"):
        read_layers(tmp_path)
