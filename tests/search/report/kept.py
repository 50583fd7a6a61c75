"""What a run keeps beside its study for its report, made by hand: the layers of its winner, and its test items."""

from dataclasses import astuple
from pathlib import Path

import numpy as np

from mergesearch.search.across.documents import COLUMNS as DOCUMENT
from mergesearch.search.across.documents import DOCUMENTS
from mergesearch.search.across.finalists import ANSWER, ITEM, About, Finalist, Finalists, FinalTask
from mergesearch.search.study.table_file import write_table
from mergesearch.search.verdict.layers import COLUMNS, LAYERS, LayerRow
from mergesearch.search.verdict.result import Verdict

MODULES = ("self_attn.q_proj", "mlp.up_proj", "input_layernorm")
ITEMS = 200
CHOICES = ["yes", "no", "</dd><script>alert(2)</script>"]


def keep_layers(folder: Path, verdict: Verdict, models: tuple[str, ...], layers: int) -> None:
    """Coefficients of each size and sign, and a module that is not changed."""
    rng, rows = np.random.default_rng(0), []
    parts = [("", None, ""), ("", None, "lm_head"), *(("model.layers", None, module) for module in MODULES)]
    parts += [("model.layers", layer, module) for layer in range(layers) for module in ("", *MODULES)]
    for stack, layer, module in parts:
        is_frozen = module == "input_layernorm"
        for model in models:
            share = 0.0 if is_frozen else float(rng.uniform(-0.5, 1.2))
            delta, change = float(rng.uniform(0, 0.1)), 0.0 if is_frozen else float(rng.uniform(0, 0.1))
            explained = None if is_frozen else 0.75
            rows.append(
                LayerRow(
                    verdict.winner.trial,
                    verdict.winner.name,
                    "models/base",
                    stack,
                    layer,
                    module,
                    model,
                    None,
                    share,
                    delta,
                    change,
                    explained,
                )
            )
    write_table(folder / LAYERS, dict(zip(COLUMNS, map(list, zip(*map(astuple, rows), strict=True)), strict=True)))


def keep_items(folder: Path, verdict: Verdict, nasty: str) -> None:
    """Questions with choices, the first ones hostile, and texts; the winner is right on every third and fifth item."""
    trials = [verdict.winner.trial, *(row.trial for row in verdict.baselines)]
    names = {row.trial: row.name for row in verdict.rows}
    rng = np.random.default_rng(1)
    keys = [("a", str(n)) for n in range(ITEMS)] + [("texts", str(n)) for n in range(20)]
    of_item = [[task, "", item, item, 1.0, f"{task} {item}", f"{task} {item}"] for task, item in keys]
    columns = {name: [row[at] for row in of_item] for at, name in enumerate(ITEM)}
    for number, trial in enumerate(trials):
        right = [float(n % 3 == 0 or n % 5 == number) for n in range(ITEMS)]
        columns[str(trial)] = [*right, *rng.uniform(1, 2, 20).tolist()]
        columns[f"{ANSWER}{trial}"] = [*(CHOICES[0] if each else CHOICES[1 + number % 2] for each in right), *[""] * 20]
    tasks = [
        FinalTask("a", "acc", True, 1.0, [0.5], False, True, {}),
        FinalTask("texts", "bits_per_byte", False, 1.0, [], False, True, {}),
    ]
    candidates = [
        Finalist(names[trial], trial, "parent" if place else "winner", "linear", str(trial), 10, "2026-01-01T10:00")
        for place, trial in enumerate(trials)
    ]
    about = About(tasks, "mean", candidates, verdict.winner.trial, verdict.winner.trial)
    Finalists(folder, about, columns).write()
    questions = [nasty if n < 3 else f"Is {n} the answer to a question about numbers?" for n in range(ITEMS)]
    texts = [f"the text of number {n} " * 30 for n in range(20)]
    rows = [("a", "test", str(n), question, CHOICES[0], CHOICES) for n, question in enumerate(questions)]
    rows += [("texts", "test", str(n), text, "", []) for n, text in enumerate(texts)]
    write_table(folder / DOCUMENTS, dict(zip(DOCUMENT, map(list, zip(*rows, strict=True)), strict=True)))
