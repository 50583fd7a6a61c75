"""Seconds to score a candidate: our evaluator and lm-eval on the same live model, beside the least that is possible.

    python benchmarks/evaluation_speed.py [--sizes 0.5M] [--small-items N] [--large-items N] [--rounds N]

Creates Llamas with random weights, of half a million parameters and of 135 million (the shape of SmolLM-135M), and
tasks with random words. The floor is one forward pass over a task's unique tokens, without padding, in the best batch;
for generation, the prompts and the decoding steps of all texts at once (`benchmarks/scoring_floor.py`). Floor and
evaluators take turns, and the fastest round counts. `auto` and `exact` are the modes of our evaluator;
`simple_evaluate` is lm-eval's function for scripts. Work that a run does once, before the first candidate, is not
timed. Prints a table and writes results/benchmarks/evaluation_speed.{json,md}; sizes that an earlier run measured stay
in them, so that it may be run by parts.
"""

import json
import logging
import os
import random
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any, Literal

import click
import torch
from machine import FOLDER, machine, write_result
from merge_throughput import cell, markdown, table
from rich.console import Console
from scoring_floor import Part, Work, parts, work_of

from mergesearch.evaluators import LoadedModel, Shared
from mergesearch.evaluators.lm_eval.lm_eval import LmEval
from mergesearch.evaluators.lm_eval.options import LmEvalOptions

WORDS = [f"{a}{b}{c}" for a in "bdfgklmnprst" for b in "aeiou" for c in ("n", "rk", "st", "l", "m")]
HEAD = """task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}, dev: {shots}}}}}
test_split: test
"""
CHOICE = """output_type: multiple_choice
doc_to_text: "{{question}}\\nAnswer:"
doc_to_choice: "{{choices}}"
doc_to_target: gold
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""
GENERATE = """output_type: generate_until
doc_to_text: question
doc_to_target: '{{choices[0]}}'
generation_kwargs: {until: ['\\n\\n'], max_gen_toks: 32, do_sample: false}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""
TASKS = {
    "four choices": CHOICE + "num_fewshot: 0\n",
    "four choices, 5 shots": CHOICE + "num_fewshot: 5\nfewshot_config: {sampler: first_n}\nfewshot_split: test\n",
    "last word": "output_type: loglikelihood\ndoc_to_text: question\ndoc_to_target: '{{choices[0]}}'\n"
    "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n",
    "whole text": "output_type: loglikelihood_rolling\ndoc_to_text: ''\ndoc_to_target: question\nnum_fewshot: 0\n"
    "metric_list: [{metric: bits_per_byte, aggregation: bits_per_byte, higher_is_better: false}]\n",
    "generation": GENERATE + "num_fewshot: 0\n",
    "generation, 5 shots": GENERATE + "num_fewshot: 5\nfewshot_config: {sampler: first_n}\nfewshot_split: dev\n",
}
METRICS = {"whole text": "bits_per_byte", "generation": "exact_match", "generation, 5 shots": "exact_match"}
SIZES = {
    "0.5M": {
        "vocab_size": 512,
        "hidden_size": 96,
        "intermediate_size": 256,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
    },
    "135M": {
        "vocab_size": 49_152,
        "hidden_size": 576,
        "intermediate_size": 1_536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
    },
}
COLUMNS = {
    "size": "parameters",
    "task": "task",
    "items": "items",
    "tokens": "unique tokens",
    "floor": "floor s",
    "auto / floor": "auto / floor",
    "exact / floor": "exact / floor",
    "simple_evaluate / floor": "simple_evaluate / floor",
    "simple_evaluate / auto": "simple_evaluate / auto",
    "difference": "difference",
    "load": "load",
}


def make_model(size: str) -> LoadedModel:
    """A Llama with a tokenizer of whole words. It never generates the end of a text."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    names = ["<unk>", "<s>", "</s>", "\n", "Answer", ":", *WORDS]
    words = Tokenizer(models.WordLevel({name: n for n, name in enumerate(names)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", bos_token="<s>", eos_token="</s>")
    context = {"max_position_embeddings": 2048, "bos_token_id": 1, "eos_token_id": 2}
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SIZES[size], **context, tie_word_embeddings=True)).eval()
    with torch.no_grad():
        model.get_input_embeddings().weight[2] = 0
    return LoadedModel(model, tokenizer)


def make_tasks(folder: Path, items: int) -> None:
    """Writes a YAML file and its data for each task in TASKS."""
    folder.mkdir()
    rng, shots = random.Random(0), folder / "shots.jsonl"
    for name, settings in TASKS.items():
        data = folder / f"{_key(name)}.jsonl"
        data.write_text("".join(json.dumps(_document(rng)) + "\n" for _ in range(items)))
        (folder / f"{_key(name)}.yaml").write_text(HEAD.format(name=_key(name), data=data, shots=shots) + settings)
    shots.write_text("".join(json.dumps(_document(rng)) + "\n" for _ in range(5)))


def _document(rng: random.Random) -> dict[str, Any]:
    question = " ".join(rng.choices(WORDS, k=rng.randint(40, 160)))
    choices = [" ".join(rng.choices(WORDS, k=rng.randint(2, 8))) for _ in range(4)]
    return {"question": question, "choices": choices, "gold": rng.randrange(4)}


def _key(name: str) -> str:
    return name.replace(",", "").replace(" ", "_")


class Measured:
    """One task on one model: the evaluators by name, each a function that gives the task's value, and the floor."""

    def __init__(self, name: str, folder: Path, model: LoadedModel, batch_size: int) -> None:
        from lm_eval import simple_evaluate
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager

        key, metric = _key(name), METRICS.get(name, "acc")
        manager = TaskManager(include_path=str(folder), include_defaults=False)
        wrapped = HFLM(pretrained=model.model, tokenizer=model.tokenizer, batch_size=batch_size)

        def simple() -> float:
            output = simple_evaluate(model=wrapped, tasks=[key], task_manager=manager, bootstrap_iters=0)
            return float(output["results"][key][f"{metric},none"])

        options = LmEvalOptions(task=key, metric=metric)
        ours = partial(_our_evaluator, options, model, folder, batch_size)
        self.evaluators = {"simple_evaluate": simple, "auto": ours("auto"), "exact": ours("exact")}
        self.work = _work(manager, key, wrapped)
        with torch.no_grad():
            self.floor = parts(model.model, self.work)

    def seconds(self, rounds: int) -> tuple[dict[str, float], dict[str, float]]:
        """Seconds of the floor and of each evaluator, and the evaluators' values."""
        floors = {name: dict.fromkeys(part, float("inf")) for name, part in self.floor.items()}
        seconds = dict.fromkeys(self.evaluators, float("inf"))
        values: dict[str, float] = {}
        for _ in range(rounds):
            for name, part in self.floor.items():
                _time_all(part, floors[name])
            values = _time_all(self.evaluators, seconds)
        return {"floor": sum(min(part.values()) for part in floors.values()), **seconds}, values


def _our_evaluator(
    options: LmEvalOptions, model: LoadedModel, folder: Path, batch_size: int, mode: Literal["auto", "exact"]
) -> Callable[[], float]:
    ours = LmEval(options, Shared(include_path=folder, batch_size=batch_size, mode=mode))
    ours.prepare(model)
    return lambda: ours.value(ours.items, ours.score(model, ours.items))


def _work(manager: Any, key: str, wrapped: Any) -> Work:
    task = manager.load([key])["tasks"][key]
    task.set_fewshot_seed(seed=1234)
    task.build_all_requests()
    documents: dict[int, list[Any]] = {}
    for instance in task.instances:
        documents.setdefault(instance.doc_id, []).append(instance)
    return work_of(documents.values(), wrapped)


def _time_all(functions: Part | dict[str, Callable[[], float]], best: dict[str, float]) -> dict[str, Any]:
    """Runs each function once, and updates its least seconds. Returns their results."""
    results = {}
    for name, function in functions.items():
        seconds, results[name] = _quietly(function)
        best[name] = min(best[name], seconds)
    return results


def _quietly(function: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds and result of a call; its output is discarded."""
    with Path(os.devnull).open("w") as null, redirect_stdout(null), redirect_stderr(null), torch.no_grad():
        start = time.perf_counter()
        value = function()
        return time.perf_counter() - start, value


def measure(size: str, name: str, items: int, measured: Measured, rounds: int) -> dict[str, Any]:
    """A row of the table."""
    seconds, values = measured.seconds(rounds)
    return {
        "size": size,
        "task": name,
        "items": items,
        "tokens": measured.work.tokens,
        **seconds,
        **{f"{evaluator} / floor": seconds[evaluator] / seconds["floor"] for evaluator in values},
        "simple_evaluate / auto": seconds["simple_evaluate"] / seconds["auto"],
        "difference": max(abs(values[mode] - values["simple_evaluate"]) for mode in ("auto", "exact")),
        **{key: machine()[key] for key in ("processor", "threads")},
        "load": machine()["load"][0],
    }


def write(rows: list[dict[str, Any]], batch_size: int) -> None:
    """Writes the files of the result, with the rows that are in them already."""
    file = FOLDER / "evaluation_speed.json"
    earlier = json.loads(file.read_text()).get("rows", []) if file.exists() else []
    by_key = {(row["size"], row["task"]): row for row in (*earlier, *rows)}
    rows = [by_key[key] for key in ((size, task) for size in SIZES for task in TASKS) if key in by_key]
    write_result("evaluation_speed", {"batch_size": batch_size, "rows": rows})
    machines = "; ".join(dict.fromkeys(f"{row['processor']}, threads: {row['threads']}" for row in rows))
    sections = ["# Scoring, beside its floor and lm-eval", str(__doc__).strip(), markdown(rows, COLUMNS), machines]
    (FOLDER / "evaluation_speed.md").write_text("\n\n".join(sections) + "\n")


@click.command()
@click.option("--sizes", default=",".join(SIZES), show_default=True, help="Models, separated by commas.")
@click.option("--tasks", default=";".join(TASKS), show_default=True, help="Tasks, separated by semicolons.")
@click.option("--small-items", type=click.IntRange(min=6), default=100, show_default=True, help="Items on 0.5M.")
@click.option("--large-items", type=click.IntRange(min=6), default=8, show_default=True, help="Items on 135M.")
@click.option("--threads", default=2, show_default=True, help="Threads of torch.")
@click.option("--rounds", default=2, show_default=True, help="Rounds, of which the fastest counts.")
@click.option("--batch-size", default=32, show_default=True, help="Maximum sequences at once, for all evaluators.")
def main(  # noqa: PLR0913, PLR0917 - one for each option
    sizes: str, tasks: str, small_items: int, large_items: int, threads: int, rounds: int, batch_size: int
) -> None:
    """Times the evaluators."""
    logging.disable(logging.WARNING)
    torch.set_num_threads(threads)
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        for size in sizes.split(","):
            model, folder = make_model(size), Path(temporary) / size
            items = {"0.5M": small_items, "135M": large_items}[size]
            make_tasks(folder, items)
            for name in tasks.split(";"):
                _, measured = _quietly(partial(Measured, name, folder, model, batch_size))
                rows.append(measure(size, name, items, measured, rounds))
                Console(stderr=True, width=140).print({key: cell(rows[-1][key]) for key in COLUMNS})
    Console(width=160).print(table(rows, COLUMNS, "seconds per candidate"))
    write(rows, batch_size)


if __name__ == "__main__":
    main()
