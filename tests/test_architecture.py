"""What holds the house together: the arrows between packages and rooms, the packaging, and quick imports."""

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ALLOWED = {
    "merge_ops": {"merge_ops"},
    "evaluators": {"evaluators"},
    "demo": {"demo"},
    "search": {"search", "merge_ops", "evaluators", "demo"},
}
ROOMS = {
    "search": [
        {"cli", "api"},
        {"rehearsal", "compare", "draft", "on_ray"},
        {"run", "crew_run", "copies", "ray_shares", "evaluate", "curve", "remerge", "sharing", "submit"},
        {"session"},
        {"report"},
        {"across"},
        {"verdict"},
        {"optimize"},
        {"candidates"},
        {"scoring"},
        {"signal"},
        {"problem"},
        {"config"},
        {"samplers"},
        {"space", "study"},
        {"statistics"},
    ],
    "merge_ops": [
        {"engine"},
        {"output", "after_merge"},
        {"assembly"},
        {"statistics"},
        {"alignment"},
        {"live"},
        {"inputs"},
        {"recipe"},
        {"methods"},
        {"kernels", "checkpoint"},
    ],
    "evaluators": [{"tasks"}, {"lm_eval"}, {"inference"}, {"data"}, {"contract"}],
}
"""The rooms of each package, from the top down: a room imports from itself and from those below it."""


def modules_of(package: str) -> dict[str, Path]:
    """Every module of a package by its dotted name below ``mergesearch``."""
    files = (ROOT / package).rglob("*.py")
    return {".".join(_parts(file)): file for file in files}


def _parts(file: Path) -> tuple[str, ...]:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" else parts


MODULES = {name: file for package in ALLOWED for name, file in modules_of(package).items()}


def imported(file: Path) -> set[str]:
    """The modules of ours that a file imports: at its head, inside functions and under TYPE_CHECKING alike."""
    return {module for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) for module in _named(node, file)}


def _named(node: ast.AST, file: Path) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (_module(alias.name) for alias in node.names if alias.name.startswith("mergesearch."))
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, f"{file}: relative import"
        if node.module and node.module.split(".")[0] == "mergesearch":
            yield from (_module(f"{node.module}.{alias.name}") for alias in node.names)


def _module(dotted: str) -> str:
    """The module that a dotted name is, or is in."""
    name = dotted.removeprefix("mergesearch.")
    return name if name in MODULES else name.rpartition(".")[0]


IMPORTS = {name: imported(file) for name, file in MODULES.items()}


def packages_of(modules: set[str]) -> set[str]:
    return {module.split(".")[0] for module in modules} & ALLOWED.keys()


@pytest.mark.parametrize("package", ALLOWED)
def test_arrows(package: str) -> None:
    beyond = {name: packages_of(IMPORTS[name]) - ALLOWED[package] for name in modules_of(package)}
    assert beyond
    assert {name: packages for name, packages in beyond.items() if packages} == {}


@pytest.mark.parametrize("package", ROOMS)
def test_rooms_import_downwards(package: str) -> None:
    level = {room: number for number, rooms in enumerate(ROOMS[package]) for room in rooms}
    arrows = [
        (module, other)
        for module in modules_of(package)
        for other in IMPORTS[module]
        if other.startswith(f"{package}.") and module != package
    ]
    assert len(arrows) > len(level)
    rooms = [(module, other, _room(module), _room(other)) for module, other in arrows]
    assert [(m, o) for m, o, above, below in rooms if above != below and level[above] >= level[below]] == []


def _room(module: str) -> str:
    return module.split(".")[1]


def test_every_room_has_its_level() -> None:
    on_disk = {package: {_room(name) for name in modules_of(package) if "." in name} for package in ROOMS}
    assert on_disk == {package: set().union(*rooms) for package, rooms in ROOMS.items()}


def test_no_import_cycles() -> None:
    done: set[str] = set()
    for name in MODULES:
        _walk({module: sorted(imports - {module}) for module, imports in IMPORTS.items()}, name, (), done)
    assert done >= MODULES.keys()


def _walk(graph: dict[str, list[str]], name: str, path: tuple[str, ...], done: set[str]) -> None:
    assert name not in path, f"a cycle: {' -> '.join([*path, name])}"
    if name in done:
        return
    for other in graph.get(name, []):
        _walk(graph, other, (*path, name), done)
    done.add(name)


def test_root_package_knows_only_what_it_offers() -> None:
    """The shared modules are leaves: the packages import them, not the other way round."""
    shared = [file for file in (ROOT / "mergesearch").glob("*.py") if file.stem not in ("__init__", "__main__")]
    assert shared
    assert {file.stem: packages_of(imported(file)) for file in shared if packages_of(imported(file))} == {}


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
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["docs"], *(e for e in extras["dev"] if e != "mergesearch[docs]")]
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in _lines(ROOT / "constraints.txt")}
    names = {"".join(c if c.isalnum() or c in "-_" else " " for c in entry).split()[0] for entry in wanted}
    assert {name.lower().replace("_", "-") for name in names} <= pinned


def _lines(file: Path) -> list[str]:
    return [line for line in file.read_text().splitlines() if "==" in line]
