"""What holds the house together: the arrows between the packages, the packaging, and quick imports."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ALLOWED = {
    "merge_ops": {"merge_ops"},
    "evaluators": {"evaluators"},
    "search": {"search", "merge_ops", "evaluators", "demo"},
    "demo": {"demo"},
}


def imports(file: Path) -> set[str]:
    """The packages of ours that a file imports, wherever in it."""
    modules = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            modules |= {f"{node.module}.{alias.name}" for alias in node.names}
    ours = {module.split(".")[1] for module in modules if module.startswith("mergesearch.")}
    return ours & ALLOWED.keys()


@pytest.mark.parametrize("package", ALLOWED)
def test_arrows(package: str) -> None:
    files = list((ROOT / package).rglob("*.py"))
    assert files
    found = {file: imports(file) for file in files}
    assert {str(file): names - ALLOWED[package] for file, names in found.items() if names - ALLOWED[package]} == {}


def test_root_package_knows_only_what_it_offers() -> None:
    """The shared modules are leaves: the packages import them, not the other way round."""
    shared = [file for file in (ROOT / "mergesearch").glob("*.py") if file.stem not in ("__init__", "__main__")]
    assert shared
    assert {file.stem: imports(file) for file in shared if imports(file)} == {}


def test_packages_listed_are_those_on_disk() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    on_disk = {"mergesearch", "mergesearch.configs"}
    for top in ALLOWED:
        folders = {file.parent for file in (ROOT / top).rglob("*.py")}
        on_disk |= {".".join(["mergesearch", *folder.relative_to(ROOT).parts]) for folder in folders}
    assert set(project["packages"]) == on_disk
    for name, folder in project["package-dir"].items():
        assert (ROOT / folder).is_dir(), name


@pytest.mark.parametrize("name", [*ALLOWED, "configs"])
def test_symlinks(name: str) -> None:
    link = ROOT / "mergesearch" / name
    assert link.is_symlink()
    assert link.resolve() == ROOT / name


@pytest.mark.parametrize("statement", ["import mergesearch", "import mergesearch.search.cli"])
def test_imports_are_light(statement: str) -> None:
    code = (
        f"import sys; {statement}; print(sorted({{'torch', 'transformers', 'lm_eval', 'optuna'}} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_methods_command_needs_no_torch() -> None:
    code = "import sys, mergesearch.search.report.methods_page; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_constraints_pin_every_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in _lines(ROOT / "constraints.txt")}
    names = {"".join(c if c.isalnum() or c in "-_" else " " for c in entry).split()[0] for entry in wanted}
    assert {name.lower().replace("_", "-") for name in names} <= pinned


def _lines(file: Path) -> list[str]:
    return [line for line in file.read_text().splitlines() if "==" in line]
