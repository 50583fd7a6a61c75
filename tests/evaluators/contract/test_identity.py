"""The files that an evaluator's code is in."""

from pathlib import Path

from mergesearch.evaluators.contract.identity import named_files, with_imported


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def imported(folder: Path, name: str) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in with_imported([folder / name])}


def test_imports_are_followed_beside_the_file_and_in_its_package(tmp_path: Path) -> None:
    files = {
        "judges/__init__.py": "",
        "judges/one.py": "import os, numpy\nfrom . import two\nfrom .parts.three import x\nfrom judges import four\n",
        "judges/two.py": "def late():\n    import one, helper\n",
        "judges/parts/__init__.py": "from ..five import *\n",
        "judges/parts/three.py": "x = 1\n",
        "judges/four.py": "",
        "judges/five.py": "",
        "judges/unused.py": "",
        "judges/helper.py": "syntax error(\n",
        "numpy.txt": "",
    }
    write(tmp_path, files)
    unused = {"judges/unused.py", "numpy.txt"}
    assert imported(tmp_path, "judges/one.py") == files.keys() - unused


def test_what_is_no_code_imports_nothing(tmp_path: Path) -> None:
    (tmp_path / "data.bin").write_bytes(b"\x00import os\xff")
    assert imported(tmp_path, "data.bin") == {"data.bin"}


def test_files_of_one_name_are_told_apart(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a/utils.py", "b/utils.py", "judge.py", "a/utils.py")]
    assert named_files(paths) == {"a/utils.py": paths[0], "b/utils.py": paths[1], "judge.py": paths[2]}
