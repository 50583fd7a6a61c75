"""The stages of making the demo. Each stage writes its files completely or not at all."""

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

from mergesearch.demo import experts, tasks, tokenizer, training
from mergesearch.demo.corpus import Corpus, read
from mergesearch.demo.pairs import PairMaker
from mergesearch.demo.size import BASE_LANGUAGES, LANGUAGES, Progress, Size
from mergesearch.errors import UserError
from mergesearch.files import remove, write_text
from mergesearch.say import Say

_FORMAT = 6  # increased when the same size gives another demo
_CONTENTS = ("base", *LANGUAGES, "tasks", "text", "demo.yml")


class Build:
    """Makes one demo folder. The stamp, size and versions, is in ``making.json`` until the demo is complete.

    It is in ``demo.json`` afterwards.
    """

    def __init__(self, folder: Path, size: Size, say: Say, progress: Progress) -> None:
        self._folder, self._size, self._say, self._progress = folder, size, say, progress
        self._making, self._done = folder / "making.json", folder / "demo.json"

    def run(self) -> None:
        """See ``mergesearch.demo.make``."""
        if _has_content(self._done, self._stamp):
            self._say(f"{self._folder} exists: nothing to make")
        else:
            self._begin()
            with _without_progress_bars():
                self._make()
            self._making.replace(self._done)
        # The tasks refer to their items by the path of this call.
        for language in LANGUAGES:
            tasks.write_yaml(self._folder / "tasks" / f"demo_{language}.yaml")

    @cached_property
    def _stamp(self) -> dict[str, Any]:
        packages = {name: version(name) for name in ("torch", "transformers", "tokenizers")}
        versions = {"python": platform.python_version(), **packages}
        return {"format": _FORMAT, "size": asdict(self._size), "versions": versions}

    def _begin(self) -> None:
        """Keeps what an interrupted call with the same stamp has finished. Removes a demo with another stamp."""
        if _has_content(self._making, self._stamp):
            for temporary in list(self._folder.rglob(".*.tmp")):
                remove(temporary)
            return
        is_demo = self._making.exists() or self._done.exists()
        if not is_demo and any((self._folder / name).exists() for name in _CONTENTS):
            raise UserError(f"{self._folder} holds something else than a demo: give an empty or a new folder")
        # The stamps are removed last: without a stamp, the rest would not be recognised as a demo.
        for name in _CONTENTS:
            remove(self._folder / name)
        remove(self._done)
        remove(self._making)
        write_text(self._making, json.dumps(self._stamp, indent=2) + "\n")

    def _make(self) -> None:
        for language, corpus in self._corpora.items():
            self._make_items(language, corpus)
            tasks.write_texts(self._folder / "text" / language, corpus, self._size)
        base = self._folder / "base"
        if not base.exists():
            experts.train(self._setup("base", None), self._progress)
        missing = [language for language in LANGUAGES if not (self._folder / language).exists()]
        experts.train_together([self._setup(language, base) for language in missing], self._progress)

    def _make_items(self, language: str, corpus: Corpus) -> None:
        pairs = PairMaker(corpus, self._tokenizer, self._size).make()
        tasks.write_items(self._folder / "tasks" / f"demo_{language}.jsonl", pairs, self._size)
        files = len({pair.source for pair in pairs})
        self._say(f"demo_{language}: {len(pairs)} items from {files} held-out files")

    def _setup(self, name: str, base: Path | None) -> experts.TrainingSetup:
        languages = BASE_LANGUAGES if name == "base" else (name,)
        rows = [self._rows[language].numpy() for language in languages]
        setup = experts.TrainingSetup(self._folder / name, base, rows, self._tokenizer.to_str(), self._size)
        self._say(f"training {name}: {setup.steps} steps of {self._size.batch * self._size.context} tokens")
        return setup

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


def _has_content(path: Path, content: dict[str, Any]) -> bool:
    return path.exists() and json.loads(path.read_text(encoding="utf-8")) == content


@contextmanager
def _without_progress_bars() -> Iterator[None]:
    enabled = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            transformers_logging.enable_progress_bar()
