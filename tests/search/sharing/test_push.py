"""``mergesearch push``: what is sent to the Hub, and what is refused before anything is."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest
from click.testing import CliRunner, Result

from mergesearch.errors import UserError
from mergesearch.search.cli import main
from mergesearch.search.sharing.push import prepared
from mergesearch.search.study.run_folder import RunFolder
from mergesearch.search.verdict.result import read_verdict

from .stub_hub import Hub, stub_hub

# huggingface_hub sends files with an argument that its own library for HTTP wants called otherwise.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content:DeprecationWarning")
TOKEN = "hf_of_the_test"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The Hub, with a token, and files sent over HTTP alone."""
    with stub_hub() as hub:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.address)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub._commit_api.is_xet_available", lambda: False)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield hub


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A run of one's own to change."""
    shutil.copytree(finished, tmp_path / "small")
    return tmp_path / "small"


def push(run: Path, *options: str, repository: str = "me/model") -> Result:
    return CliRunner().invoke(main, ["push", str(run), repository, *options])


def test_the_model_is_uploaded_to_a_private_repository(hub: Hub, run: Path) -> None:
    result = push(run)
    assert (result.exit_code, result.stdout) == (0, f"{hub.address}/me/model/commit/1\n")
    (created,) = hub.sent("/repos/create")
    assert (created["name"], created["organization"], created["visibility"]) == ("model", "me", "private")
    model = run / "model"
    names = {file.relative_to(model).as_posix() for file in model.rglob("*") if file.is_file()}
    assert hub.files.keys() == names - {"mergesearch_recipe.yml"}
    for name in hub.files.keys() - {"README.md"}:
        assert hub.files[name] == (model / name).read_bytes(), name
    assert f"Bearer {TOKEN}" in hub.tokens


def test_nothing_that_is_uploaded_names_a_local_path(hub: Hub, run: Path, models: Path) -> None:
    push(run)
    sent = b"".join(content for name, content in hub.files.items() if not name.endswith(".safetensors"))
    assert b"me/model" in hub.files["README.md"]
    for path in (models, run):
        assert str(path).encode() not in sent


def test_a_public_repository_has_to_be_said(hub: Hub, run: Path) -> None:
    hub.private = False
    refused = push(run)
    assert (refused.exit_code, hub.files) == (2, {})
    assert "give --public" in refused.stderr
    assert push(run, "--public").exit_code == 0
    assert hub.sent("/repos/create")[-1]["visibility"] == "public"


def test_a_branch_is_made(hub: Hub, run: Path) -> None:
    assert push(run, "--revision", "side").exit_code == 0
    assert any(path.endswith("/branch/side") for _, path, _ in hub.requests)
    assert any("/commit/side" in path for _, path, _ in hub.requests)


def test_what_the_hub_has_is_not_sent_again(hub: Hub, run: Path) -> None:
    hub.refuse = {"/commit/": 409}
    assert push(run).exit_code == 2
    hub.refuse = {}
    assert push(run).exit_code == 0
    assert sum(method == "PUT" for method, _, _ in hub.requests) == 1


@pytest.mark.parametrize(
    ("part", "status", "words"),
    [
        ("/repos/create", 401, "hf auth login"),
        ("/commit/", 403, "may not write"),
        ("/commit/", 409, "changed at the same time"),
        ("/preupload/", 404, "HTTP 404"),
    ],
)
def test_a_refusal_is_told_in_a_line(hub: Hub, run: Path, part: str, status: int, words: str) -> None:
    hub.refuse = {part: status, **({"/api/models/": status} if status == 401 else {})}
    result = push(run)
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1].startswith("error: me/model: ")
    assert words in result.stderr
    assert "Traceback" not in result.stderr
    assert hub.files == {}


def test_a_hub_that_cannot_be_reached_is_told_in_a_line(hub: Hub, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    result = push(run)
    assert result.exit_code == 2
    assert "cannot be uploaded" in result.stderr
    assert hub.requests == []


def test_a_dry_run_lists_files_and_prints_the_card(hub: Hub, run: Path) -> None:
    result = push(run, "--dry-run")
    assert result.exit_code == 0
    assert hub.requests == []
    assert "model.safetensors" in result.stderr
    assert "base_model" in result.stdout or "tags:" in result.stdout
    assert '"me/model"' in result.stdout


@pytest.mark.parametrize("file", ["model.safetensors", "config.json"])
def test_a_changed_model_is_refused(hub: Hub, run: Path, file: str) -> None:
    content = (run / "model" / file).read_bytes()
    (run / "model" / file).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    result = push(run)
    assert result.exit_code == 2
    assert hub.requests == []


def test_what_is_missing_or_a_link_is_refused(run: Path, tmp_path: Path) -> None:
    config = run / "model" / "config.json"
    config.rename(tmp_path / "config.json")
    with pytest.raises(UserError, match="is missing"), prepared(run, "me/model"):
        pass
    config.symlink_to(tmp_path / "config.json")
    with pytest.raises(UserError, match="is missing"), prepared(run, "me/model"):
        pass


def test_files_that_the_run_did_not_write_stay_here(hub: Hub, run: Path) -> None:
    (run / "model" / "secret.txt").write_text("mine")
    assert push(run).exit_code == 0
    assert "secret.txt" not in hub.files


def test_an_edited_card_is_uploaded(hub: Hub, run: Path) -> None:
    (run / "model" / "README.md").write_text("# Mine\n")
    assert push(run).exit_code == 0
    assert hub.files["README.md"] == b"# Mine\n"


def test_the_best_is_merged_where_another_is_recommended(run: Path) -> None:
    verdict = read_verdict(RunFolder(run))
    assert verdict is not None
    assert verdict.winner.name != verdict.recommended
    with prepared(run, "me/model", "best") as upload:
        assert f"{verdict.winner.name} (linear) (this model)" in upload.card
        assert upload.folder != run / "model"
        assert (upload.folder / "model.safetensors").is_file()
    assert not upload.folder.exists()
    assert not list(run.glob(".push*"))


@pytest.mark.parametrize("name", ["a/b/c", "../x", "a b", "-a/b", "a--b/c"])
def test_a_name_that_the_hub_does_not_take_is_refused(run: Path, name: str) -> None:
    with pytest.raises(UserError, match="no name of a repository"), prepared(run, name):
        pass


def test_a_run_without_a_verdict_is_refused(run: Path) -> None:
    (run / "verdict.json").unlink()
    with pytest.raises(UserError, match="has no verdict"), prepared(run, "me/model"):
        pass
