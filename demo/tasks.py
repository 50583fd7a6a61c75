"""The lm-eval tasks of the pairs, and held-out text for bits per byte."""

import json
import random
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import yaml

from mergesearch.demo.corpus import Corpus
from mergesearch.demo.pairs import Pair
from mergesearch.demo.size import Size
from mergesearch.files import atomic_path, write_text
from mergesearch.seeds import derive

_TEXT_CHARACTERS = 3_000


def write_items(target: Path, pairs: list[Pair], size: Size) -> None:
    """Writes one JSON line for each pair. The right choice is the first or the second one at random."""
    rng = random.Random(derive(size.seed, "answers", target.name))
    write_text(target, "".join(json.dumps(_item(pair, rng.randrange(2))) + "\n" for pair in pairs))


def write_yaml(target: Path) -> None:
    """Writes the task whose items are in the same folder.

    lm-eval resolves the path of the items from the folder where it runs.
    """
    task = {
        "task": target.stem,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(target.with_suffix(".jsonl"))}},
        "test_split": "test",
        "output_type": "multiple_choice",
        # Field names, not templates: a template would lose the line break at the end.
        "doc_to_text": "context",
        "doc_to_choice": "choices",
        "doc_to_target": "answer",
        "target_delimiter": "",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": 1.0},
    }
    text = yaml.safe_dump(task, sort_keys=False)
    if not target.exists() or target.read_text(encoding="utf-8") != text:
        write_text(target, text)


def write_texts(target: Path, corpus: Corpus, size: Size) -> None:
    """Writes a piece of each of the first held-out files, the short ones of them joined."""
    with atomic_path(target) as folder:
        folder.mkdir()
        for number, text in enumerate(islice(_long_texts(corpus), size.texts)):
            (folder / f"{number:02}.txt").write_text(_middle(text), encoding="utf-8")


def _long_texts(corpus: Corpus) -> Iterator[str]:
    joined = ""
    for text in corpus.held_out.values():
        joined += text
        if len(joined) >= 2 * _TEXT_CHARACTERS:
            yield joined
            joined = ""


def _item(pair: Pair, answer: int) -> dict[str, object]:
    choices = [pair.right, pair.wrong] if answer == 0 else [pair.wrong, pair.right]
    return {
        "source": pair.source,
        "kind": pair.kind,
        "context": pair.context,
        "choices": choices,
        "answer": answer,
    }


def _middle(text: str) -> str:
    """From the middle of a file, since many files begin with a licence."""
    start = text.index("\n", len(text) // 2 - _TEXT_CHARACTERS // 2) + 1
    return text[start : start + _TEXT_CHARACTERS]
