"""The examples run: each file by the commands in its head, on models that are quick to make; and what they show."""

import json
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted(file.stem for file in (ROOT / "examples").glob("*.yml"))
LONG = ("unet_blocks", "fourteen", "fourteen_tasks", "soup_sweep", "recovered")
"""Examples that are runs, of many models, or trainings."""
SHORT = ("llama", "gptj", "bert", "unet", "esrgan")
"""The families of models of the others."""


@pytest.fixture(scope="module")
def run_all() -> Iterator[ModuleType]:
    """The script that runs all examples."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "examples"))
        import run_all

        yield run_all
        for name in ("run_all", "make_models", "machine", "texts", "berts", "images"):
            sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def place(run_all: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A current folder with the examples, and models that have learned nothing."""
    with run_all.workplace(tmp_path_factory.mktemp("examples"), [*SHORT], 0.01):
        yield


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize("name", [name for name in FILES if name not in LONG])
def test_short_examples_run(name: str, run_all: ModuleType) -> None:
    found = run_all.FOUND.get(name, str)(run_all.run(name))
    assert re.search(r"\d", found), found


def test_every_example_has_a_command(run_all: ModuleType) -> None:
    assert FILES
    assert all(run_all.commands(name) for name in FILES)
    assert run_all.FOUND.keys() <= {*FILES}


def test_numbers_of_the_documentation_are_those_recorded(run_all: ModuleType) -> None:
    """Each row has a command of its file, and what came out."""
    rows = [line for line in (ROOT / "docs" / "examples.md").read_text().splitlines() if line.startswith("| [")]
    record = json.loads(run_all.RECORD.read_text())["found"]
    assert record.keys() == run_all.FOUND.keys()
    for name, found in record.items():
        (row,) = [row for row in rows if row.startswith(f"| [{name}.yml](")]
        assert row.endswith(f"| {found} |"), f"{name}: {found}"
        assert any(f"`mergesearch {shlex.join(each)}`" in row for each in run_all.commands(name)), name


@pytest.mark.slow
def test_what_the_examples_show(run_all: ModuleType, tmp_path: Path) -> None:
    """With trained models: what is claimed of each, whatever the digits are on this machine."""
    with run_all.workplace(tmp_path, []):
        found = {name: run_all.FOUND[name](run_all.run(name)) for name in run_all.FOUND}
        run_all.run("fourteen_tasks")
        curve, verdict = (
            json.loads(Path("results", file).read_text())
            for file in ("curves/wise_ft/curve.json", "runs/unet_blocks/verdict.json")
        )
    (ood,) = [task for task in curve["tasks"] if task["task"] == "ood"]
    values = [value["value"] for value in ood["values"]]
    assert min(values) < min(values[0], values[-1]) - 0.05
    assert verdict["beyond_chance"]
    middle, aligned = (float(part) for part in re.findall(r"([\d.]+) dB", found["aligned"]))
    assert aligned > middle + 3
    before, after = (float(part) for part in re.findall(r"([\d.]+) (?:before|after)", found["recovered"]))
    assert after < before - 0.05
    before, after = (float(part) for part in re.findall(r"([\d.]+) (?:before|after)", found["fourteen"]))
    assert after < before - 0.2
    before, after = (float(part) for part in re.findall(r"([\d.]+) (?:before|after)", found["unet_inpainting"]))
    assert after < before / 3
