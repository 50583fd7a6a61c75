"""What the package index shows: README.md with links that work there."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def packaging() -> ModuleType:
    spec = importlib.util.spec_from_file_location("packaging_of_mergesearch", ROOT / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def targets(text: str) -> list[str]:
    return re.findall(r"\]\(([^)]+)\)", text)


def test_with_an_address_every_link_is_absolute(packaging: ModuleType) -> None:
    found = targets(packaging.long_description(README, "https://example.org/mergesearch/"))
    assert len(found) == len(targets(README))
    assert [target for target in found if not target.startswith("https://")] == []
    assert "https://example.org/mergesearch/docs/verdict/" in found
    assert "https://example.org/mergesearch/docs/images/report.png" in found
    assert "https://example.org/mergesearch/docs/search/#output" in found
    assert "https://example.org/mergesearch/results/benchmarks/" in found


def test_without_an_address_no_link_is_dead(packaging: ModuleType) -> None:
    text = packaging.long_description(README, None)
    assert [target for target in targets(text) if not target.startswith("https://")] == []
    assert "![" not in text
    assert "Every use of the test items is counted and reported. Verdict" in text


def test_the_address_is_that_of_the_site(packaging: ModuleType, tmp_path: Path) -> None:
    packaging.ROOT = tmp_path
    (tmp_path / "pyproject.toml").write_text('[project]\nurls = {Documentation = "https://example.org/x"}\n')
    assert packaging.address() == "https://example.org/x/"
    (tmp_path / "pyproject.toml").write_text("[project]\n")
    assert packaging.address() is None
