"""Artifacts: bytes that are written once under a name, in a folder or a bucket that all workers of a run reach.

The stores are those of Optuna, which know how to reach a folder, S3 and Google Cloud Storage.
"""

import warnings
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol, TypeVar
from urllib.parse import unquote, urlsplit

from optuna.artifacts import Boto3ArtifactStore, FileSystemArtifactStore, GCSArtifactStore
from optuna.artifacts.exceptions import ArtifactNotFound
from optuna.exceptions import ExperimentalWarning

from mergesearch.errors import UserError, first_line, in_words
from mergesearch.files import sync
from mergesearch.search.study.exchange import ArtifactError

Found = TypeVar("Found")
ATTEMPTS = 8
"""How often a request to S3 is made before it fails."""


class _Store(Protocol):
    def open_reader(self, artifact_id: str) -> Any: ...

    def write(self, artifact_id: str, content_body: Any) -> None: ...

    def remove(self, artifact_id: str) -> None: ...


class Artifacts:
    """The artifacts at a ``url``: a folder, ``file:///folder``, ``s3://bucket/prefix`` or ``gs://bucket/prefix``.

    Raises UserError where the store cannot be opened.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        place = urlsplit(url)
        try:
            self._store, self._folder = _opened(url)
        except ImportError:
            extra = {"s3": "s3", "gs": "gcs"}[place.scheme]
            raise UserError(f"artifacts: {url} needs another package: `pip install mergesearch[{extra}]`") from None
        except Exception as error:
            raise UserError(f"artifacts: cannot open {url}: {first_line(error)}") from None
        self._prefix = "" if self._folder else place.path.strip("/")

    def _at(self, name: str) -> str:
        return f"{self._prefix}/{name}" if self._prefix else name

    def write(self, name: str, data: bytes) -> None:
        """Writes an artifact, so that a loss of power leaves it. Raises ArtifactError."""
        self._tried(lambda: self._store.write(self._at(name), BytesIO(data)))
        if (folder := self._folder) is not None:
            self._tried(lambda: sync(folder / name))

    def read(self, name: str) -> bytes | None:
        """An artifact; None where there is none. Raises ArtifactError."""
        return self._tried(lambda: self._read(self._at(name)))

    def _read(self, artifact: str) -> bytes | None:
        try:
            with self._store.open_reader(artifact) as content:
                return bytes(content.read())
        except ArtifactNotFound:
            return None

    def remove(self, name: str) -> None:
        """Removes an artifact, where there is one and it can be removed."""
        try:
            self._store.remove(self._at(name))
        except Exception:  # it harms nobody
            return

    def _tried(self, act: Callable[[], Found]) -> Found:
        try:
            return act()
        except Exception as error:
            raise ArtifactError(f"{self.url}: {in_words(error)}") from error


def _opened(url: str) -> tuple[_Store, Path | None]:
    """The store, and its folder where it is one."""
    place = urlsplit(url)
    if place.scheme == "s3":
        return _s3(place.netloc), None
    if place.scheme == "gs":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            return GCSArtifactStore(place.netloc), None
    folder = Path(unquote(place.path) if place.scheme == "file" else url)
    folder.mkdir(parents=True, exist_ok=True)
    return FileSystemArtifactStore(folder), folder


def _s3(bucket: str) -> _Store:
    import boto3
    from botocore.config import Config

    patient = Config(retries={"mode": "standard", "max_attempts": ATTEMPTS})
    return Boto3ArtifactStore(bucket, boto3.client("s3", config=patient), avoid_buf_copy=True)
