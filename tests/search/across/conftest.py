"""What the command line of lm-eval logs of two small models."""

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ...evaluators import command_line
from ..helpers import llama_of_letters, save_fine_tunes

LETTERS = "abcdefghij"


@dataclass(frozen=True)
class Logs:
    """Folders of ``--log_samples`` of two models, and what is printed of each."""

    one: Path
    two: Path
    printed: dict[str, command_line.Printed]


@pytest.fixture(scope="session")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Logs:
    """A task of twelve questions, one of eighty with two metrics, and one of texts."""
    folder, calls = tmp_path_factory.mktemp("logs"), {}
    save_fine_tunes(folder / "models", *llama_of_letters(f"{LETTERS} ", layers=1), 0.5)
    write_tasks(folder / "tasks")
    for name in ("one", "two"):
        calls[name] = ["--model_args", f"pretrained={folder / 'models' / name},max_length=64"]
    tasks = "few,many,texts"
    arguments = ["--model", "hf", "--device", "cpu", "--tasks", tasks, "--include_path", str(folder / "tasks")]
    printed = command_line.run(arguments, calls, folder, folder / "cache")
    return Logs(folder / "one", folder / "two", printed)


def write_tasks(folder: Path) -> None:
    folder.mkdir()
    rng = random.Random(0)

    def word() -> str:
        return "".join(rng.choices(LETTERS, k=4))

    def question(number: int) -> dict[str, Any]:
        return {"page": number // 2, "text": f"{word()} {word()}", "choices": [word(), word()], "answer": number % 2}

    choice = {
        "output_type": "multiple_choice",
        "doc_to_text": "text",
        "doc_to_choice": "choices",
        "doc_to_target": "answer",
    }
    metrics = [{"metric": name, "aggregation": "mean", "higher_is_better": True} for name in ("acc", "acc_norm")]
    bits = [{"metric": "bits_per_byte", "aggregation": "bits_per_byte", "higher_is_better": False}]
    rolling = {"output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "text"}
    _write(folder, "few", [question(n) for n in range(12)], choice | {"metric_list": metrics[:1]})
    _write(folder, "many", [question(n) for n in range(80)], choice | {"metric_list": metrics})
    texts = [{"text": " ".join(word() for _ in range(rng.randint(1, 6)))} for _ in range(20)]
    _write(folder, "texts", texts, rolling | {"metric_list": bits})


def _write(folder: Path, name: str, documents: list[dict[str, Any]], task: dict[str, Any]) -> None:
    data = folder / f"{name}.jsonl"
    data.write_text("".join(json.dumps(document) + "\n" for document in documents))
    source = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(data)}}, "test_split": "test"}
    (folder / f"{name}.yaml").write_text(json.dumps({"task": name, **source, **task, "metadata": {"version": 1.0}}))
