"""Artifacts in folders and buckets."""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import boto3
import pytest
from moto import mock_aws
from optuna.artifacts import _gcs

from mergesearch.errors import UserError
from mergesearch.search.study.artifacts import Artifacts
from mergesearch.search.study.exchange import ArtifactError

KINDS = ("folder", "file", "s3", "gs")


class Bucket:
    """As much of a bucket of Google Cloud Storage as Optuna uses."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}

    def get_blob(self, name: str) -> "Blob | None":
        return Blob(self, name) if name in self.blobs else None

    def blob(self, name: str) -> "Blob":
        return Blob(self, name)

    def delete_blob(self, name: str) -> None:
        del self.blobs[name]


class Blob:
    def __init__(self, bucket: Bucket, name: str) -> None:
        self._bucket, self._name = bucket, name

    def download_as_bytes(self) -> bytes:
        return self._bucket.blobs[self._name]

    def upload_from_string(self, data: bytes) -> None:
        self._bucket.blobs[self._name] = data


BUCKETS: dict[str, Bucket] = {}


class Client:
    def bucket(self, name: str) -> Bucket:
        return BUCKETS.setdefault(name, Bucket())


@pytest.fixture
def google(monkeypatch: pytest.MonkeyPatch) -> None:
    """Google's package, which is not installed."""
    modules = {name: ModuleType(name) for name in ("google", "google.cloud", "google.cloud.storage")}
    modules["google.cloud.storage"].Client = Client  # type: ignore[attr-defined]
    modules["google.cloud"].storage = modules["google.cloud.storage"]  # type: ignore[attr-defined]
    modules["google"].cloud = modules["google.cloud"]  # type: ignore[attr-defined]
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(_gcs, "google", modules["google"], raising=False)
    monkeypatch.setattr(_gcs._imports, "check", lambda: None)
    BUCKETS.clear()


@pytest.fixture
def amazon(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with mock_aws():
        client = boto3.client("s3")
        client.create_bucket(Bucket="bucket")
        yield client


@pytest.fixture(params=KINDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param in ("s3", "gs"):
        request.getfixturevalue("amazon" if request.param == "s3" else "google")
        return f"{request.param}://bucket/some/runs"
    folder = tmp_path / "a folder"
    return str(folder) if request.param == "folder" else folder.as_uri()


def test_artifacts_are_written_read_and_removed(url: str) -> None:
    one, two = Artifacts(url), Artifacts(url)
    one.write("run.1", b"one")
    one.write("run.2", b"")
    assert [two.read(f"run.{number}") for number in (1, 2, 3)] == [b"one", b"", None]
    one.write("run.1", b"again")
    two.remove("run.2")
    two.remove("run.2")
    assert [one.read(f"run.{number}") for number in (1, 2)] == [b"again", None]


def test_a_bucket_has_them_under_its_prefix(amazon: Any, google: None) -> None:
    del google
    for url in ("s3://bucket/some/runs/", "gs://bucket/some/runs"):
        Artifacts(url).write("run.1", b"one")
    assert [each["Key"] for each in amazon.list_objects_v2(Bucket="bucket")["Contents"]] == ["some/runs/run.1"]
    assert BUCKETS["bucket"].blobs == {"some/runs/run.1": b"one"}
    Artifacts("s3://bucket").write("run.2", b"two")
    assert amazon.get_object(Bucket="bucket", Key="run.2")["Body"].read() == b"two"


def test_a_bucket_that_is_not_there_is_told(amazon: Any) -> None:
    del amazon
    with pytest.raises(ArtifactError, match=r"s3://another/runs: .*NoSuchBucket"):
        Artifacts("s3://another/runs").write("run.1", b"one")


def test_what_is_not_installed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"gs://bucket needs another package: `pip install mergesearch\[gcs\]`"):
        Artifacts("gs://bucket")
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(UserError, match=r"s3://bucket needs another package: `pip install mergesearch\[s3\]`"):
        Artifacts("s3://bucket")


def test_a_folder_that_cannot_be_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"artifacts: cannot open .*file/folder"):
        Artifacts(str(tmp_path / "file" / "folder"))
