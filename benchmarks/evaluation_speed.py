"""Seconds to score a candidate: our evaluator and lm-eval on the same live model.

    python benchmarks/evaluation_speed.py [--items N] [--threads N] [--rounds N]

Creates a Llama with random weights and tasks with random words. All evaluators score every task in each round, and the
fastest round counts. ``simple_evaluate`` is lm-eval's function for scripts. ``evaluate`` is lm-eval with its tasks
loaded and its requests built once, which requires knowledge of its internals. ``auto`` and ``exact`` are the modes of
our evaluator. Work that a run does once, before the first candidate, is not timed. Prints a table and writes
results/benchmarks/evaluation_speed.json.
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
from machine import write_result
from rich.console import Console
from rich.table import Table

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
COLUMNS = ["simple_evaluate", "evaluate", "auto", "exact", "simple / auto", "evaluate / auto", "difference"]
METRICS = {"whole text": "bits_per_byte", "generation": "exact_match", "generation, 5 shots": "exact_match"}


def make_model() -> LoadedModel:
    """A Llama with about 12 million parameters, and a tokenizer of whole words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    names = ["<unk>", "<s>", "</s>", "\n", "Answer", ":", *WORDS]
    words = Tokenizer(models.WordLevel({name: n for n, name in enumerate(names)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", bos_token="<s>", eos_token="</s>")
    config = LlamaConfig(
        vocab_size=8192,
        hidden_size=256,
        intermediate_size=688,
        num_hidden_layers=10,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=2048,
        bos_token_id=1,
        eos_token_id=2,
    )
    torch.manual_seed(0)
    return LoadedModel(LlamaForCausalLM(config).eval(), tokenizer)


def make_tasks(folder: Path, items: int) -> None:
    """Writes a YAML file and its data for each task in TASKS."""
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


def evaluators_of(name: str, folder: Path, model: LoadedModel, batch_size: int) -> dict[str, Callable[[], float]]:
    """One function for each evaluator, by name, that scores a candidate on a task and returns the task's value."""
    from lm_eval import evaluator, simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    key, metric = _key(name), METRICS.get(name, "acc")
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    wrapped = HFLM(pretrained=model.model, tokenizer=model.tokenizer, batch_size=batch_size)
    options = LmEvalOptions(task=key, metric=metric)
    loaded = manager.load([key])
    task = loaded["tasks"][key]
    task.set_fewshot_seed(seed=1234)
    task.build_all_requests()
    task.build_all_requests = lambda **_: _clear_answers(task)

    def simple() -> float:
        output = simple_evaluate(model=wrapped, tasks=[key], task_manager=manager, bootstrap_iters=0)
        return float(output["results"][key][f"{metric},none"])

    def evaluate() -> float:
        output = evaluator.evaluate(wrapped, loaded, bootstrap_iters=0, log_samples=False)
        return float(output["results"][key][f"{metric},none"])

    return {
        "simple_evaluate": simple,
        "evaluate": evaluate,
        **{mode: _our_evaluator(options, model, folder, batch_size, mode) for mode in ("auto", "exact")},
    }


def _our_evaluator(
    options: LmEvalOptions, model: LoadedModel, folder: Path, batch_size: int, mode: Literal["auto", "exact"]
) -> Callable[[], float]:
    ours = LmEval(options, Shared(include_path=folder, batch_size=batch_size, mode=mode))
    ours.prepare(model)
    return lambda: ours.value(ours.items, ours.score(model, ours.items))


def _clear_answers(task: Any) -> None:
    for instance in task.instances:
        instance.resps, instance.filtered_resps = [], {}


def measure(evaluators: dict[str, Callable[[], float]], rounds: int) -> dict[str, Any]:
    """Seconds of each evaluator in its fastest round, lm-eval's seconds divided by ours, difference of values."""
    results = [{name: _quietly(evaluate) for name, evaluate in evaluators.items()} for _ in range(rounds)]
    seconds = {name: min(result[name][0] for result in results) for name in evaluators}
    ratios = {name: seconds[name] / seconds["auto"] for name in ("simple_evaluate", "evaluate")}
    values = {name: value for name, (_, value) in results[-1].items()}
    difference = max(abs(values[mode] - values["simple_evaluate"]) for mode in ("auto", "exact"))
    return {"seconds": seconds, "ratios": ratios, "difference": difference}


def _quietly(function: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds and result of a call; its output is discarded."""
    with Path(os.devnull).open("w") as null, redirect_stdout(null), redirect_stderr(null):
        start = time.perf_counter()
        value = function()
        return time.perf_counter() - start, value


@click.command()
@click.option("--items", type=click.IntRange(min=6), default=40, show_default=True, help="Items of each task.")
@click.option("--threads", default=2, show_default=True, help="Threads of torch.")
@click.option("--rounds", default=2, show_default=True, help="Rounds, of which the fastest counts.")
@click.option("--batch-size", default=8, show_default=True, help="Sequences at once, for all evaluators.")
def main(items: int, threads: int, rounds: int, batch_size: int) -> None:
    """Times the evaluators."""
    logging.disable(logging.WARNING)
    torch.set_num_threads(threads)
    model = make_model()
    table = Table("task", *COLUMNS, title=f"seconds per candidate, {items} items a task")
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        make_tasks(Path(folder), items)
        for name in TASKS:
            _, evaluators = _quietly(partial(evaluators_of, name, Path(folder), model, batch_size))
            results[name] = result = measure(evaluators, rounds)
            cells = [
                *(f"{seconds:.2f}" for seconds in result["seconds"].values()),
                *(f"{ratio:.1f}x" for ratio in result["ratios"].values()),
            ]
            table.add_row(name, *cells, f"{result['difference']:.1g}")
            Console(stderr=True, width=120).print(name, *cells)
    Console(width=120).print(table)
    write_result("evaluation_speed", {"items": items, "rounds": rounds, "batch_size": batch_size, "tasks": results})


if __name__ == "__main__":
    main()
