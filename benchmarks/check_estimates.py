"""How near the estimates of ``mergesearch check`` are to what a search takes.

    python benchmarks/check_estimates.py [CONFIG ...] [--trials N]

Runs each config without racing, from the folder in which its paths are valid, and compares the seconds of its trials
with the two estimates. Without CONFIG: configs/demo.yml and the demo's checkpoints with tasks of other kinds. Requires
the demo's checkpoints, which ``mergesearch demo`` creates. Prints a table and writes
results/benchmarks/check_estimates.json.
"""

import tempfile
import time
from pathlib import Path
from typing import Any

import click
from machine import write_result
from rich.console import Console
from rich.table import Table

from mergesearch.search.candidates.plan import open_plan
from mergesearch.search.config import Config, read_sections
from mergesearch.search.rehearsal import expected_cost
from mergesearch.search.session import Session
from mergesearch.search.study.opening import open_run
from mergesearch.search.study.run_folder import RunFolder
from mergesearch.search.study.run_store import RunStore

GENERATE = """task: echo
dataset_path: json
dataset_kwargs: {data_files: {test: %s}}
test_split: test
output_type: generate_until
doc_to_text: "{{text}}"
doc_to_target: "{{text}}"
num_fewshot: 0
generation_kwargs: {until: ["zzz"], max_gen_toks: 24, do_sample: false}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""


def own_configs(folder: Path) -> dict[str, dict[str, Any]]:
    """The demo's search with tasks of other kinds."""
    demo = read_sections(Path("configs/demo.yml"))
    (folder / "docs.jsonl").write_text("".join(f'{{"text": "def f{n}(x):"}}\n' for n in range(64)))
    (folder / "echo.yaml").write_text(GENERATE % (folder / "docs.jsonl"))
    split = {"split": {"search": 0.5, "test": 0.5}}
    generation = {**split, "include_path": str(folder), "tasks": [{"task": "echo", "metric": "exact_match"}]}
    texts = {"evaluator": "bits_per_byte", "task": "text", "files": ["results/demo/text/python/*.txt"]}
    one = {**demo["evaluate"], "tasks": demo["evaluate"]["tasks"][:1]}
    tasks = {"generation": generation, "one task": one, "texts": {**split, "tasks": [texts]}}
    search = {**demo.get("search", {}), "start": "none"}
    return {name: {**demo, "evaluate": evaluate, "search": search} for name, evaluate in tasks.items()}


def compared(data: dict[str, Any], trials: int) -> dict[str, float]:
    """Seconds for the trials: guessed, measured, and taken."""
    search = {**data.get("search", {}), "trials": trials, "racing": False}
    plan = open_plan(Config.model_validate({**data, "search": search, "output": {"name": "run"}}), "config")
    estimates = {
        name: expected_cost(plan, measured, lambda _: None).search(trials)
        for name, measured in (("guessed", False), ("measured", True))
    }
    with tempfile.TemporaryDirectory() as name:
        folder = RunFolder(Path(name))
        study = open_run(folder, plan.problem.config.dump(), None, plan.problem.tasks.directions)
        session = Session(plan, RunStore(folder, study, plan.problem.tasks.items("search")))
        session.prepare()
        begin = time.perf_counter()
        session.search()
        return {**estimates, "taken": time.perf_counter() - begin}


@click.command(help=__doc__)
@click.argument("configs", nargs=-1, type=click.Path(path_type=Path, exists=True))
@click.option("--trials", default=24, show_default=True)
def main(configs: tuple[Path, ...], trials: int) -> None:
    table = Table("config", "guessed s", "measured s", "taken s", "guessed / taken", "measured / taken")
    with tempfile.TemporaryDirectory() as name:
        data = {str(file): read_sections(file) for file in configs or [Path("configs/demo.yml")]}
        rows = {
            key: compared(value, trials) for key, value in (data | ({} if configs else own_configs(Path(name)))).items()
        }
    for config, row in rows.items():
        ratios = (row["guessed"] / row["taken"], row["measured"] / row["taken"])
        table.add_row(
            config, *(f"{row[key]:.2f}" for key in ("guessed", "measured", "taken")), *(f"{r:.2f}" for r in ratios)
        )
    Console().print(table)
    write_result("check_estimates", {"trials": trials, "seconds": rows})


if __name__ == "__main__":
    main()
