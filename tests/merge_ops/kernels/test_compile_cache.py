"""The folder of compiled kernels: what is loaded from it is this user's own, and what was compiled."""

import hashlib
import os
import stat
from pathlib import Path

import pytest

from mergesearch.merge_ops.kernels import compile_cache, native_backend
from tests.merge_ops.helpers import Counter

COMPILER = native_backend._compiler()
pytestmark = pytest.mark.skipif(COMPILER is None, reason="there is no C compiler")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    file = tmp_path / "source.c"
    file.write_text("int answer(void) { return 42; }\n", encoding="utf-8")
    return file


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "mergesearch"


def compiled(source: Path) -> Path:
    return compile_cache.compiled([*(COMPILER or []), "-shared", "-fPIC"], source)


def test_a_source_is_compiled_once_into_a_private_folder(
    source: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = Counter(compile_cache._compile)
    monkeypatch.setattr(compile_cache, "_compile", calls)
    assert compiled(source) == compiled(source)
    assert calls.calls == 1
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert [file.suffix for file in folder.iterdir()] == [".so"]


@pytest.mark.usefixtures("folder")
def test_another_source_or_command_is_another_library(source: Path) -> None:
    first = compiled(source)
    source.write_text("int answer(void) { return 43; }\n", encoding="utf-8")
    assert compiled(source) != first
    assert compile_cache.compiled([*(COMPILER or []), "-O3", "-shared", "-fPIC"], source) != compiled(source)


def test_a_file_whose_content_changed_is_compiled_again(source: Path, folder: Path) -> None:
    first = compiled(source)
    content = first.read_bytes()
    first.write_bytes(content[: len(content) // 2])
    again = compiled(source)
    assert again.read_bytes() != content[: len(content) // 2]
    assert len(list(folder.iterdir())) == 1


def test_what_others_could_have_written_is_not_taken(source: Path, folder: Path) -> None:
    first = compiled(source)
    kernels, digest, _ = first.stem.split("-")
    planted = folder / f"{kernels}-{digest}-{hashlib.sha256(b'planted').hexdigest()[:32]}.so"
    first.unlink()
    planted.write_bytes(b"planted")
    assert compiled(source) == planted
    folder.chmod(0o777)
    assert compiled(source).read_bytes() != b"planted"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="there are no owners of files")
def test_a_folder_of_another_user_is_not_used(source: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled(source)
    other = os.getuid() + 1
    monkeypatch.setattr(compile_cache.os, "getuid", lambda: other)
    file = compiled(source)
    assert file.parent != folder
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


def test_a_link_in_place_of_the_folder_is_not_followed(source: Path, folder: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    folder.parent.mkdir()
    folder.symlink_to(elsewhere)
    assert compiled(source).parent != folder
    assert not any(elsewhere.iterdir())


def test_a_cache_that_cannot_be_made_is_replaced(source: Path, folder: Path) -> None:
    folder.parent.write_text("a file", encoding="utf-8")
    assert compiled(source).exists()
