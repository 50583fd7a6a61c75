"""The stages of making the demo, each of which leaves its files whole or not at all."""

import json
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers.utils import logging as transformers_logging

from mergesearch.demo import LANGUAGES, Progress, Say, Size, experts, tasks, tokenizer, training
from mergesearch.demo.corpus import Corpus, read
from mergesearch.demo.pairs import pairs
from mergesearch.errors import UserError
from mergesearch.files import remove, write_text

_FORMAT = 2  # counts up when the same size would give another demo
_PARTS = ("base", *LANGUAGES, "tasks", "text")


class Build:
    """One demo folder. ``making.json`` stands for a demo under way, ``demo.json`` for one that is whole."""

    def __init__(self, folder: Path, size: Size, say: Say, progress: Progress) -> None:
        self._folder, self._size, self._say, self._progress = folder, size, say, progress

    def run(self) -> None:
        if _holds(self._folder / "demo.json", _stamp(self._size)):
            self._say(f"{self._folder} is there already: nothing to make")
        else:
            self._begin()
            with _quiet():
                self._make()
            (self._folder / "making.json").replace(self._folder / "demo.json")
        # The tasks name their items by the path that this call was given.
        for language in LANGUAGES:
            tasks.write_yaml(self._folder / "tasks" / f"demo_{language}.yaml")

    def _begin(self) -> None:
        """Keeps what a killed call of the same stamp has finished, removes what another stamp has made."""
        making = self._folder / "making.json"
        if _holds(making, _stamp(self._size)):
            for leftover in list(self._folder.rglob(".*.tmp")):
                remove(leftover)
            return
        ours = making.exists() or (self._folder / "demo.json").exists()
        if not ours and any((self._folder / part).exists() for part in _PARTS):
            raise UserError(f"{self._folder} holds something else than a demo: give an empty or a new folder")
        # The stamps go last: without one of them, what is left would be taken for somebody else's.
        for name in (*_PARTS, "demo.json", "making.json"):
            remove(self._folder / name)
        write_text(making, json.dumps(_stamp(self._size), indent=2) + "\n")

    def _make(self) -> None:
        for language, corpus in self._corpora.items():
            self._items(language, corpus)
            tasks.write_texts(self._folder / "text" / language, corpus, self._size)
        base = self._folder / "base"
        if not base.exists():
            experts.train(self._job("base", None), self._progress)
        missing = [language for language in LANGUAGES if not (self._folder / language).exists()]
        experts.train_together([self._job(language, base) for language in missing], self._progress)

    def _items(self, language: str, corpus: Corpus) -> None:
        found = pairs(corpus, self._tokenizer, self._size)
        tasks.write_items(self._folder / "tasks" / f"demo_{language}.jsonl", found, self._size)
        files = len({pair.source for pair in found})
        self._say(f"demo_{language}: {len(found)} items from {files} held-out files")

    def _job(self, name: str, base: Path | None) -> experts.Job:
        rows = [row.numpy() for language, row in self._rows.items() if name in ("base", language)]
        job = experts.Job(self._folder / name, base, rows, self._tokenizer.to_str(), self._size)
        self._say(f"training {name}: {job.steps} steps of {self._size.batch * self._size.context} tokens")
        return job

    @cached_property
    def _corpora(self) -> dict[str, Corpus]:
        self._say("reading the source files of this machine")
        return {language: read(language, self._size) for language in LANGUAGES}

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        self._say(f"training a tokenizer of {self._size.vocabulary} tokens")
        return tokenizer.train(self._corpora.values(), self._size)

    @cached_property
    def _rows(self) -> dict[str, torch.Tensor]:
        return {
            language: training.encoded(self._tokenizer, corpus.training.values())
            for language, corpus in self._corpora.items()
        }


def _stamp(size: Size) -> dict[str, Any]:
    packages = {name: version(name) for name in ("torch", "transformers", "tokenizers")}
    versions = {"python": platform.python_version(), **packages}
    return {"format": _FORMAT, "size": asdict(size), "versions": versions}


def _holds(path: Path, stamp: dict[str, Any]) -> bool:
    return path.exists() and json.loads(path.read_text(encoding="utf-8")) == stamp


@contextmanager
def _quiet() -> Iterator[None]:
    enabled = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            transformers_logging.enable_progress_bar()
