"""The conditions under which lm-eval's command line runs: its seeds, but without its logs and progress bars.

Templates are rendered in Jinja's sandbox: a task's YAML is data, and must not reach Python through its templates.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from unittest import mock

import datasets
import lm_eval.api.task
import lm_eval.utils
import numpy as np
import torch
from jinja2.sandbox import SandboxedEnvironment
from lm_eval.defaults import DEFAULT_OTHER_SEED, DEFAULT_RANDOM_SEED

QUIET_LOGGERS = ("lm_eval", "transformers", "datasets", "huggingface_hub")


@contextmanager
def as_command_line() -> Iterator[None]:
    """For calls of lm-eval's code. Restores the random generators, log levels and progress bars afterwards."""
    with ExitStack() as stack:
        stack.enter_context(_quiet_loggers())
        stack.enter_context(_no_request_bars())
        stack.enter_context(_no_dataset_bars())
        stack.enter_context(_seeded())
        stack.enter_context(mock.patch.object(lm_eval.utils, "env", _sandbox()))
        yield


@cache
def _sandbox() -> SandboxedEnvironment:
    """The environment of lm-eval's templates, sandboxed."""
    own = lm_eval.utils.env
    sandbox = SandboxedEnvironment(
        loader=own.loader, undefined=own.undefined, keep_trailing_newline=own.keep_trailing_newline
    )
    sandbox.filters.update(own.filters)
    return sandbox


@contextmanager
def _quiet_loggers() -> Iterator[None]:
    before = [logging.getLogger(name).level for name in QUIET_LOGGERS]
    _set_levels([logging.ERROR] * len(QUIET_LOGGERS))
    try:
        yield
    finally:
        _set_levels(before)


def _set_levels(levels: Sequence[int]) -> None:
    """``Logger.setLevel`` clears the cache of every logger of the process, so it is called once, and only on change."""
    loggers = [logging.getLogger(name) for name in QUIET_LOGGERS]
    if [logger.level for logger in loggers] == [*levels]:
        return
    for logger, level in zip(loggers, levels, strict=True):
        logger.level = level
    loggers[-1].setLevel(levels[-1])


@contextmanager
def _no_request_bars() -> Iterator[None]:
    bar = lm_eval.api.task.tqdm
    lm_eval.api.task.tqdm = partial(bar, disable=True)
    try:
        yield
    finally:
        lm_eval.api.task.tqdm = bar


@contextmanager
def _no_dataset_bars() -> Iterator[None]:
    was_enabled = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if was_enabled:
            datasets.enable_progress_bars()


@contextmanager
def _seeded() -> Iterator[None]:
    """The seeds of the command line. Some tasks shuffle their choices with the global random generators."""
    states = random.getstate(), np.random.get_state()
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(devices):
        random.seed(DEFAULT_RANDOM_SEED)
        np.random.seed(DEFAULT_OTHER_SEED)
        torch.default_generator.manual_seed(DEFAULT_OTHER_SEED)
        if devices:
            torch.cuda.manual_seed(DEFAULT_OTHER_SEED)
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
