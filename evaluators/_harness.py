"""lm-eval seen from here: a task by its name, and a live model wrapped for its methods."""

from __future__ import annotations

import copy
import logging
import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

import datasets
import lm_eval.api.task
import numpy as np
import torch
from lm_eval.defaults import DEFAULT_OTHER_SEED, DEFAULT_RANDOM_SEED
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from mergesearch.errors import UserError, listed, nearest
from mergesearch.evaluators._base import LoadedModel
from mergesearch.evaluators._logprobs import Request

_OTHER_HEADS = ("Classification", "MaskedLM", "QuestionAnswering", "MultipleChoice", "PreTraining")
_TALKERS = ("lm_eval", "transformers", "datasets", "huggingface_hub")


@contextmanager
def as_command_line() -> Iterator[None]:
    """Runs lm-eval's code under the seeds of its command line, without its logs and progress bars; puts all back."""
    with ExitStack() as stack:
        for name in _TALKERS:
            stack.enter_context(_level(logging.getLogger(name), logging.ERROR))
        stack.enter_context(_no_request_bars())
        stack.enter_context(_no_dataset_bars())
        stack.enter_context(_seeded())
        yield


@contextmanager
def _level(logger: logging.Logger, level: int) -> Iterator[None]:
    before = logger.level
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.setLevel(before)


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
    on = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if on:
            datasets.enable_progress_bars()


@contextmanager
def _seeded() -> Iterator[None]:
    """Some tasks shuffle their choices with the global generators, which the command line seeds."""
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


def load_task(name: str, include_path: Path | None, num_fewshot: int | None) -> Any:
    """The lm-eval task, with its documents loaded and its few-shot settings as the command line sets them."""
    manager = _manager(name, include_path)
    with as_command_line():
        try:
            task = next(iter(manager.load([name])["tasks"].values()))
        except Exception as error:  # a task's YAML may run anything
            raise UserError(f"task {name!r} cannot be loaded: {_reason(error)}") from error
        _set_fewshot(task, num_fewshot)
    _check_supported(task, name)
    return task


def _reason(error: Exception) -> str:
    """What went wrong; and what to do where the Hugging Face hub could not be reached."""
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, ConnectionError):
        return f"its data is not on this machine and the Hugging Face hub cannot be reached ({text})"
    return text


def _set_fewshot(task: Any, num_fewshot: int | None) -> None:
    """What ``lm_eval.simple_evaluate`` does: a task that says 0 itself stays at 0."""
    default = task.get_config("num_fewshot")
    if num_fewshot is not None and default != 0:
        task.set_config(key="num_fewshot", value=num_fewshot)
    elif default is None:
        task.set_config(key="num_fewshot", value=0)
    task.set_fewshot_seed(seed=DEFAULT_OTHER_SEED)


def _check_supported(task: Any, name: str) -> None:
    if getattr(task, "MULTIMODAL", False):
        raise UserError(f"task {name!r} needs images or sound; only text tasks are supported")
    if getattr(task, "UNSAFE_CODE", False):
        raise UserError(f"task {name!r} runs code that the model writes; such tasks are not supported")


def _manager(name: str, include_path: Path | None) -> Any:
    """The index that has the task: the user's own folder where it is there, or else lm-eval's own tasks."""
    if include_path is not None and not include_path.is_dir():
        raise UserError(f"include_path: there is no folder {str(include_path)!r}")
    own = TaskManager(include_path=str(include_path), include_defaults=False) if include_path else None
    if own and name in own.all_tasks:
        return _only_tasks(own, name)
    if include_path:
        _check_files(name, own, include_path)
    builtin = _builtin()
    if name in builtin.all_tasks:
        return _only_tasks(builtin, name)
    raise UserError(f"task: there is no lm-eval task {name!r}{_hint(name, own, builtin)}")


@cache
def _builtin() -> Any:
    """The index of lm-eval's own tasks: five seconds of reading YAML."""
    return TaskManager()


def _hint(name: str, own: Any, builtin: Any) -> str:
    mine = own.all_subtasks if own else []
    close = nearest(name, {*mine, *builtin.all_subtasks})
    if close.startswith("; did you mean"):
        return close
    return f"; those in include_path: {listed(mine)}" if mine else "; `lm-eval ls tasks` lists all"


def _only_tasks(manager: Any, name: str) -> Any:
    """The manager, where the name is that of a single task."""
    entry = manager.task_index[name]
    if name in manager.all_subtasks:
        return manager
    members = entry.tags if name in manager.all_tags else [_member(task) for task in entry.cfg["task"]]
    raise UserError(f"task: {name!r} is a group of tasks; name them one by one: {listed(members, most=100)}")


def _member(task: str | dict[str, Any]) -> str:
    return task if isinstance(task, str) else str(task.get("task", task.get("group")))


def _check_files(name: str, own: Any, include_path: Path) -> None:
    """Raises where a file that lm-eval passed over in silence may be the one that was meant."""
    for path in sorted(include_path.rglob("*.y*ml")):
        text = path.read_text(encoding="utf-8", errors="replace")
        if name != path.stem and f"task: {name}\n" not in f"{text}\n":
            continue
        if path.suffix != ".yaml":
            raise UserError(f"task: {name!r} may be in {path}, but lm-eval reads only files that end with .yaml")
        raise UserError(f"task: {name!r} is not in {path}: {_file_problem(own, path)}")


def _file_problem(own: Any, path: Path) -> str:
    names = [name for name, entry in own.task_index.items() if entry.yaml_path == path]
    if names:
        return f"the file holds {listed(map(repr, names))}"
    try:
        own.load([str(path)])
    except Exception as error:  # a task's YAML may run anything
        return _reason(error)
    return "lm-eval passes the file over"


class _Encoder(HFLM):  # type: ignore[misc]
    """HFLM whose ``loglikelihood`` stops after its own encoding."""

    def _loglikelihood_tokens(self, requests: list[Any], **_: Any) -> list[Any]:
        return requests


def wrap(subject: LoadedModel, batch_size: int, max_length: int | None = None) -> Any:
    """HFLM around the live model, with a copy of the tokenizer, whose settings it changes.

    Its ``loglikelihood`` gives the encoded requests: [((context, continuation), context ids, continuation ids)].
    """
    # lm-eval goes by the kind of model, and takes a BERT with any head for a decoder.
    config: Any = subject.model.config
    if str((config.architectures or [""])[0]).endswith(_OTHER_HEADS):
        raise UserError(f"only causal language models can be scored, not {type(subject.model).__name__}")
    with as_command_line():
        tokenizer = copy.deepcopy(subject.tokenizer)
        wrapped = _Encoder(pretrained=subject.model, tokenizer=tokenizer, batch_size=batch_size)
    if wrapped.backend != "causal":
        raise UserError(f"only causal language models can be scored, not {type(subject.model).__name__}")
    if max_length is not None:
        if max_length > wrapped.max_length:
            raise UserError(f"max_length: {max_length} is more than the model's context of {wrapped.max_length} tokens")
        wrapped._max_length = max_length
    return wrapped


def rolling_requests(wrapped: Any, text: str) -> tuple[Request, ...]:
    """The whole text in windows of the model's length, each token scored once, as in ``HFLM.loglikelihood_rolling``."""
    windows = get_rolling_token_windows(
        token_list=wrapped.tok_encode(text),
        prefix_token=wrapped.prefix_token_id,
        max_seq_len=wrapped.max_length,
        context_len=1,
    )
    pairs = (make_disjoint_window(window) for window in windows)
    return tuple(Request(tuple(context), tuple(continuation)) for context, continuation in pairs)


def build_instances(task: Any, documents: int) -> list[list[Any]]:
    """For each of the task's first documents its instances, in the order of their ``idx``."""
    groups: list[list[Any]] = [[] for _ in range(documents)]
    with as_command_line():
        try:
            task.set_fewshot_seed(seed=DEFAULT_OTHER_SEED)
            task.build_all_requests(limit=documents)
        except Exception as error:  # templates may run anything
            built = f"its questions with num_fewshot {task.get_config('num_fewshot')}"
            raise UserError(f"task {task.task_name!r}: {built} cannot be built: {_reason(error)}") from error
    for instance in task.instances:
        groups[instance.doc_id].append(instance)
    return [sorted(group, key=lambda instance: instance.idx) for group in groups]
