"""Training of checkpoints in parallel processes, each on one thread.

Models of this size do not train faster on several threads, and with one thread the bytes of a checkpoint do not depend
on the number of cores.
"""

import multiprocessing
import os
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

from mergesearch.demo import tokenizer, training
from mergesearch.demo.size import LANGUAGES, Progress, Size
from mergesearch.files import atomic_path
from mergesearch.seeds import derive

POLL_SECONDS = 0.05


@dataclass(frozen=True)
class TrainingSetup:
    """The training of one checkpoint on rows of tokens, from ``base`` or, where that is None, from seeded weights.

    ``tokenizer`` is serialized, so that it can be sent to another process.
    """

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


def train_together(setups: Sequence[TrainingSetup], progress: Progress) -> None:
    """Trains all checkpoints in parallel. Raises RuntimeError where one fails."""
    context = multiprocessing.get_context("spawn")
    steps: Any = context.SimpleQueue()
    shares = [setups[number :: _workers(len(setups))] for number in range(_workers(len(setups)))]
    processes = [context.Process(target=_train_in_process, args=(share, steps), daemon=True) for share in shares]
    try:
        _watch(processes, steps, progress)
    finally:
        for process in processes:
            process.terminate()
            process.join()
    failed = [setup.name for setup in setups if not setup.target.exists()]
    if failed:
        raise RuntimeError(f"training failed: {', '.join(failed)}")


def _workers(count: int) -> int:
    """How many processes train so many checkpoints: one per core where that leaves none idle, else one for each."""
    cores = os.cpu_count() or 1
    return cores if cores <= count and count % cores == 0 else count


def _watch(processes: Sequence[BaseProcess], steps: Any, progress: Progress) -> None:
    """Starts the processes and reports their steps until all have ended."""
    for process in processes:
        process.start()
    while any(process.is_alive() for process in processes) or not steps.empty():
        while not steps.empty():
            progress(*steps.get())
        time.sleep(POLL_SECONDS)


def _train_in_process(setups: Sequence[TrainingSetup], steps: Any) -> None:
    from transformers.utils import logging

    logging.disable_progress_bar()
    for setup in setups:
        train(setup, lambda name, done, total: steps.put((name, done, total)))


def train(setup: TrainingSetup, progress: Progress) -> None:
    """Trains one checkpoint in this process, on one thread."""
    words, size = Tokenizer.from_str(setup.tokenizer), setup.size
    model = AutoModelForCausalLM.from_pretrained(setup.base) if setup.base else training.new_model(words, size)
    data = training.batches([torch.from_numpy(row) for row in setup.rows], setup.steps, size, setup.name)
    rate = size.expert_rate if setup.base else size.base_rate
    if setup.base:
        _renew_layer(model, setup)
    with _one_thread():
        training.train(model, data, setup.steps, rate, lambda done: progress(setup.name, done, setup.steps))
    with atomic_path(setup.target) as folder:
        model.save_pretrained(folder)
        tokenizer.for_transformers(words).save_pretrained(folder)


def _renew_layer(model: Any, setup: TrainingSetup) -> None:
    """Each expert trains a layer of its own from new weights.

    People re-initialise layers before they fine-tune (Zhang et al., Revisiting few-sample BERT fine-tuning, 2021). Such
    a layer has nothing in common with that of the base: a merge is better without it.
    """
    layer = LANGUAGES.index(setup.name) % setup.size.layers
    training.reinitialise(model, layer, derive(setup.size.seed, "new layer", setup.name))


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
