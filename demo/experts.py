"""Training in processes of their own, each on one thread: models this small gain nothing from a second one.

One thread also makes the bytes of a checkpoint independent of how many cores a machine has.
"""

import multiprocessing
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from mergesearch.demo import Progress, Size, tokenizer, training
from mergesearch.files import atomic_path

POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Job:
    """One checkpoint to be trained on rows of tokens: ``base`` is where it starts, None for seeded weights."""

    target: Path
    base: Path | None
    rows: Sequence[NDArray[Any]]
    tokenizer: str
    size: Size

    @property
    def name(self) -> str:
        return self.target.name

    @property
    def steps(self) -> int:
        return self.size.expert_steps if self.base else self.size.base_steps


def train_together(jobs: Sequence[Job], progress: Progress) -> None:
    """Trains every job at once, each to its folder; raises RuntimeError where one fails."""
    context = multiprocessing.get_context("spawn")
    ticks: Any = context.SimpleQueue()
    processes = {job.name: context.Process(target=_work, args=(job, ticks), daemon=True) for job in jobs}
    try:
        _watch(list(processes.values()), ticks, progress)
    finally:
        for process in processes.values():
            process.terminate()
            process.join()
    failed = [name for name, process in processes.items() if process.exitcode != 0]
    if failed:
        raise RuntimeError(f"training failed: {', '.join(failed)}")


def _watch(processes: Sequence[BaseProcess], ticks: Any, progress: Progress) -> None:
    for process in processes:
        process.start()
    while any(process.is_alive() for process in processes) or not ticks.empty():
        while not ticks.empty():
            progress(*ticks.get())
        time.sleep(POLL_SECONDS)


def _work(job: Job, ticks: Any) -> None:
    from transformers.utils import logging

    logging.disable_progress_bar()
    train(job, lambda name, done, total: ticks.put((name, done, total)))


def train(job: Job, progress: Progress) -> None:
    """Trains one job in this process, on one thread."""
    words, size = Tokenizer.from_str(job.tokenizer), job.size
    model = AutoModelForCausalLM.from_pretrained(job.base) if job.base else training.new_model(words, size)
    data = training.batches([torch.from_numpy(row) for row in job.rows], job.steps, size, job.name)
    rate = size.expert_rate if job.base else size.base_rate
    with _one_thread():
        training.train(model, data, job.steps, rate, lambda done: progress(job.name, done, job.steps))
    with atomic_path(job.target) as folder:
        model.save_pretrained(folder)
        tokenizer.for_transformers(words).save_pretrained(folder)


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
