"""The beds of the search benchmark: checkpoints that conflict, and many items to score merges of them on.

The demo has four experts of one language each. The Llama has two fine-tunes of two languages each, and multiple choice
of five kinds, one of them (numbers) near chance. The encoder has a classification head: which sign stands at the gap of
a text; its two fine-tunes learned two languages each. Checkpoints are made once, in results/beds.
"""

import json
import random
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import BertConfig, BertForSequenceClassification

from mergesearch.demo import tasks as demo_tasks
from mergesearch.demo import tokenizer as demo_tokenizer
from mergesearch.demo import training
from mergesearch.demo.corpus import Corpus, Files, read
from mergesearch.demo.size import FULL, LANGUAGES
from mergesearch.files import atomic_path, write_text
from mergesearch.seeds import derive

FOLDER = Path("results/beds")
Rows = Sequence[Mapping[str, Any]]
SEARCH, TEST, TRUTH = 140, 420, 1200
"""Items of each task: of the search, of the verdict, and of the truth."""
LAYERS = {"search": [0.0, 1.0], "layers": "each"}
FINE_TUNES = {"first": LANGUAGES[::3], "second": LANGUAGES[1:3]}
"""The languages of each fine-tune of the Llama and of the encoder."""


@dataclass(frozen=True)
class Bed:
    """Checkpoints and tasks. ``names``: the base, then the models, folders of ``folder``.

    ``weight`` is that of a recipe's model. ``tasks``: the names of the files of items in ``items``; ``entry`` is what
    a config says of a task beside its name and data.
    """

    folder: Path
    names: Sequence[str]
    items: Path
    tasks: Sequence[str]
    weight: Any
    entry: Mapping[str, Any]

    def write_items(self, seed: int, folder: Path) -> None:
        """Writes the items of a seed: ``run_TASK.jsonl`` and ``truth_TASK.jsonl``. A source is in one of them."""
        for task in self.tasks:
            by_source = defaultdict(list)
            for line in (self.items / f"{task}.jsonl").read_text().splitlines():
                by_source[json.loads(line)["source"]].append(line)
            sources = sorted(by_source)
            random.Random(derive(seed, "bed", task)).shuffle(sources)
            lines = [(line, source) for source in sources for line in by_source[source]]
            last = lines[SEARCH + TEST - 1][1]
            cut = max(number for number, (_, source) in enumerate(lines) if source == last) + 1
            parts = {"run": lines[:cut], "truth": lines[cut : cut + TRUTH]}
            for part, chosen in parts.items():
                write_text(folder / f"{part}_{task}.jsonl", "".join(line + "\n" for line, _ in chosen))
                if "evaluator" not in self.entry:
                    demo_tasks.write_yaml(folder / f"{part}_{task}.yaml")

    def config(self, folder: Path, part: str, seed: int) -> dict[str, Any]:
        """The sections ``recipe`` and ``evaluate`` of a config: of the run, or of the truth, which has test items."""
        base, *models = (str(self.folder / name) for name in self.names)
        recipe = {
            "merge_method": "task_arithmetic",
            "base_model": base,
            "models": [{"model": model, "parameters": {"weight": self.weight}} for model in models],
        }
        search = SEARCH / (SEARCH + TEST) if part == "run" else 0.01
        evaluate: dict[str, Any] = {
            "tasks": [self._entry(folder, f"{part}_{task}") for task in self.tasks],
            "split": {"search": search, "test": 1 - search, "seed": seed, "group": "source"},
            "batch_size": 128,
            "ensemble": False,
        }
        if "evaluator" not in self.entry:
            evaluate["include_path"] = str(folder)
        return {"recipe": recipe, "evaluate": evaluate}

    def _entry(self, folder: Path, name: str) -> dict[str, Any]:
        data = {"data": str(folder / f"{name}.jsonl")} if "evaluator" in self.entry else {}
        return {"task": name, **data, **self.entry}


def demo() -> Bed:
    """The demo's checkpoints, which ``mergesearch demo`` makes, and its items."""
    folder, value = Path("results/demo"), {"search": [0.0, 0.6], "layers": "each"}
    weight = [{"filter": "self_attn", "value": value}, {"filter": "mlp", "value": value}, {"value": value}]
    names = [f"demo_{language}" for language in LANGUAGES]
    return Bed(folder, ["base", *LANGUAGES], folder / "tasks", names, weight, {"metric": "acc"})


def llama() -> Bed:
    """A Llama of six layers."""
    folder = FOLDER / "llama"
    kinds = [*LANGUAGES, "numbers"]
    if not folder.exists():
        _make_llama(folder)
    weight = [{"filter": "self_attn", "value": LAYERS}, {"filter": "mlp", "value": LAYERS}, {"value": LAYERS}]
    return Bed(folder, ["base", *FINE_TUNES], folder / "tasks", kinds, weight, {"metric": "acc"})


def encoder() -> Bed:
    """A BERT of three layers with a classification head."""
    folder = FOLDER / "encoder"
    if not folder.exists():
        _make_encoder(folder)
    weight = [{"filter": "attention", "value": LAYERS}, {"value": LAYERS}]
    entry = {"evaluator": "classification", "metric": "accuracy"}
    return Bed(folder, ["base", *FINE_TUNES], folder / "tasks", list(LANGUAGES), weight, entry)


BEDS = {"demo": demo, "llama": llama, "encoder": encoder}

SIZE = replace(FULL, hidden=96, layers=6, context=128, held_out_files=400, seed=1)
LLAMA_STEPS, ENCODER_STEPS = (150, 400), (400, 800)
"""Training steps of the base and of each fine-tune."""


def _make_llama(folder: Path) -> None:
    corpora = {language: read(language, SIZE) for language in LANGUAGES}
    words = demo_tokenizer.train(corpora.values(), SIZE)
    rows = {language: training.encoded(words, corpus.training.values()) for language, corpus in corpora.items()}
    with atomic_path(folder) as made:
        model = training.new_model(words, SIZE)
        base = None
        for name, languages in {"base": LANGUAGES, **FINE_TUNES}.items():
            if base is not None:
                model.load_state_dict(base)
            steps, rate = (LLAMA_STEPS[0], SIZE.base_rate) if base is None else (LLAMA_STEPS[1], SIZE.expert_rate)
            data = training.batches([rows[language] for language in languages], steps, SIZE, name)
            training.train(model, data, steps, rate, lambda _: None)
            base = base or {key: tensor.clone() for key, tensor in model.state_dict().items()}
            model.save_pretrained(made / name)
            demo_tokenizer.for_transformers(words).save_pretrained(made / name)
        for language, corpus in corpora.items():
            _write_rows(made / "tasks" / f"{language}.jsonl", _next_lines(corpus))
        _write_rows(made / "tasks" / "numbers.jsonl", (row for corpus in corpora.values() for row in _numbers(corpus)))


def _write_rows(path: Path, rows: Iterator[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


def _lines(files: Files, rng: random.Random, shortest: int) -> Iterator[tuple[str, str, str, list[str]]]:
    """(source, context, line, other lines of the file) of up to 16 random lines of each file."""
    for source, text in files.items():
        lines = [line.rstrip()[:100] for line in text.splitlines() if len(line.strip()) >= shortest]
        for number in sorted(rng.sample(range(len(lines)), min(16, len(lines)))):
            if number >= 2:
                others = sorted({*lines} - {lines[number]})
                yield source, "\n".join(lines[number - 2 : number]) + "\n", lines[number], others


def _row(source: str, context: str, right: str, wrong: Sequence[str], rng: random.Random) -> dict[str, Any]:
    choices = [right, *wrong]
    rng.shuffle(choices)
    return {"source": source, "context": context, "choices": choices, "answer": choices.index(right)}


def _next_lines(corpus: Corpus) -> Iterator[dict[str, Any]]:
    """Which of four lines of the file comes next."""
    rng = random.Random(derive(SIZE.seed, "lines", corpus.language))
    for source, context, right, others in _lines(corpus.held_out, rng, 8):
        if len(others) >= 3:
            yield _row(source, context, right, rng.sample(others, 3), rng)


def _numbers(corpus: Corpus) -> Iterator[dict[str, Any]]:
    """Which of two numbers of as many digits stands in a line."""
    rng = random.Random(derive(SIZE.seed, "numbers", corpus.language))
    for source, context, right, _ in _lines(corpus.held_out, rng, 8):
        found = re.search(r"\d+", right)
        if found:
            other = "".join(rng.choice("123456789") for _ in found[0])
            if other != found[0]:
                yield _row(source, context, right, [right[: found.start()] + other + right[found.end() :]], rng)


SIGNS = '()=.,:;[]_-"'
GAP = "§"
AROUND = 40
"""Characters before and after a gap."""


def _gaps(files: Files, name: str, count: int) -> Iterator[dict[str, Any]]:
    """Texts with a gap, and the number of the sign that stood there; every sign equally often where it occurs."""
    rng = random.Random(derive(SIZE.seed, "gaps", name))
    for source, text in files.items():
        for _ in range(count):
            sign = rng.choice(SIGNS)
            places = [found.start() for found in re.finditer(re.escape(sign), text)]
            if places:
                place = rng.choice(places)
                around = text[max(0, place - AROUND) : place] + GAP + text[place + 1 : place + 1 + AROUND]
                yield {"source": source, "text": around, "label": SIGNS.index(sign)}


def _make_encoder(folder: Path) -> None:
    corpora = {language: read(language, SIZE) for language in LANGUAGES}
    words = demo_tokenizer.train(corpora.values(), SIZE)
    tokenizer = demo_tokenizer.for_transformers(words)
    data = {name: list(_gaps(corpus.training, f"training {name}", 40)) for name, corpus in corpora.items()}
    with atomic_path(folder) as made:
        model = _new_encoder(len(tokenizer))
        base = None
        for name, languages in {"base": LANGUAGES, **FINE_TUNES}.items():
            if base is not None:
                model.load_state_dict(base)
            rows = [data[language] for language in languages]
            _train_encoder(model, tokenizer, rows, ENCODER_STEPS[base is not None], name)
            base = base or {key: tensor.clone() for key, tensor in model.state_dict().items()}
            model.save_pretrained(made / name)
            tokenizer.save_pretrained(made / name)
        for language, corpus in corpora.items():
            _write_rows(made / "tasks" / f"{language}.jsonl", _gaps(corpus.held_out, language, 12))


def _new_encoder(vocabulary: int) -> Any:
    config = BertConfig(
        vocab_size=vocabulary,
        hidden_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=192,
        max_position_embeddings=128,
        num_labels=len(SIGNS),
        pad_token_id=2,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(SIZE.seed, "encoder"))
        return BertForSequenceClassification(config).float()


def _train_encoder(
    model: Any, tokenizer: Any, rows: Sequence[Sequence[Mapping[str, Any]]], steps: int, name: str
) -> None:
    rng = random.Random(derive(SIZE.seed, "training", name))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, steps)
    model.train()
    for _ in range(steps):
        batch = [row for of_language in rows for row in rng.choices(of_language, k=64 // len(rows))]
        inputs = tokenizer(
            [row["text"] for row in batch], return_tensors="pt", padding=True, truncation=True, max_length=128
        )
        labels = torch.tensor([row["label"] for row in batch])
        loss = model(input_ids=inputs.input_ids, attention_mask=inputs.attention_mask, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    model.eval()
