"""lm-eval's tasks seen from here: loaded by name, set up and put into words as its command line does."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import datasets
import lm_eval.api.task
import numpy as np
import torch
from lm_eval.defaults import DEFAULT_OTHER_SEED, DEFAULT_RANDOM_SEED
from lm_eval.tasks import TaskManager

from mergesearch.errors import UserError, in_words, listed, nearest

_TALKERS = ("lm_eval", "transformers", "datasets", "huggingface_hub")


@contextmanager
def as_command_line() -> Iterator[None]:
    """Runs lm-eval's code under the seeds of its command line, without its logs and progress bars; puts all back."""
    with ExitStack() as stack:
        stack.enter_context(_quiet())
        stack.enter_context(_no_request_bars())
        stack.enter_context(_no_dataset_bars())
        stack.enter_context(_seeded())
        yield


@contextmanager
def _quiet() -> Iterator[None]:
    before = [logging.getLogger(name).level for name in _TALKERS]
    _set_levels([logging.ERROR] * len(_TALKERS))
    try:
        yield
    finally:
        _set_levels(before)


def _set_levels(levels: Sequence[int]) -> None:
    """``setLevel`` goes through every logger that there is, hundreds of times a trial: so once for all, if at all."""
    loggers = [logging.getLogger(name) for name in _TALKERS]
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


@dataclass(frozen=True)
class Settings:
    """What the command line's arguments change in every task; see ``LmEvalOptions`` for their meaning."""

    num_fewshot: int | None = None
    fewshot_seed: int = DEFAULT_OTHER_SEED
    gen_kwargs: Mapping[str, Any] | None = None
    system_instruction: str | None = None
    multiturn: bool = False
    unsafe_code: bool = False


@dataclass(frozen=True)
class Loaded:
    """The tasks that a name stands for, and lm-eval's group of them where it is one that aggregates."""

    tasks: Sequence[Any]
    group: Any | None


def load_tasks(name: str, include_path: Path | None, settings: Settings) -> Loaded:
    """A task, or those of a group or tag, documents loaded and settings made as the command line makes them."""
    manager = _manager(name, include_path)
    with as_command_line():
        try:
            loaded = manager.load([name])
        except Exception as error:  # a task's YAML may run anything
            raise UserError(f"task {name!r} cannot be loaded: {_reason(error)}") from error
        for task in loaded["tasks"].values():
            _set(task, settings)
            _check_supported(task, settings)
    group = loaded["groups"].get(name)
    return Loaded(list(loaded["tasks"].values()), group if group and group.has_aggregation else None)


def _reason(error: Exception) -> str:
    """What went wrong; and what to do where the Hugging Face hub could not be reached."""
    text = in_words(error)
    if isinstance(error, ConnectionError):
        return f"its data is not on this machine and the Hugging Face hub cannot be reached ({text})"
    return "its split has no documents" if isinstance(error, StopIteration) else text


def _set(task: Any, settings: Settings) -> None:
    """What ``lm_eval.simple_evaluate`` does: a task that says 0 examples itself stays at 0."""
    if settings.gen_kwargs and task.get_config("output_type") == "generate_until":
        task.set_config(key="generation_kwargs", value=dict(settings.gen_kwargs), update=True)
    default = task.get_config("num_fewshot")
    if settings.num_fewshot is not None and default != 0:
        task.set_config(key="num_fewshot", value=settings.num_fewshot)
    elif default is None:
        task.set_config(key="num_fewshot", value=0)
    task.set_fewshot_seed(seed=settings.fewshot_seed)


def _check_supported(task: Any, settings: Settings) -> None:
    name = task.task_name
    if getattr(task, "MULTIMODAL", False):
        raise UserError(f"task {name!r} needs images or sound; only text tasks are supported")
    if getattr(task, "UNSAFE_CODE", False) and not settings.unsafe_code:
        raise UserError(
            f"task {name!r} runs code that the model writes, on this machine and with your rights; "
            "say confirm_run_unsafe_code: true if that is what you want"
        )


def _manager(name: str, include_path: Path | None) -> Any:
    """The index that has the task: the user's own folder where it is there, or else lm-eval's own tasks."""
    if include_path is not None and not include_path.is_dir():
        raise UserError(f"include_path: there is no folder {str(include_path)!r}")
    own = TaskManager(include_path=str(include_path), include_defaults=False) if include_path else None
    if own and name in own.all_tasks:
        return own if _complete(own, name) else TaskManager(include_path=str(include_path))
    if include_path:
        _check_files(name, own, include_path)
    builtin = _builtin()
    if name in builtin.all_tasks:
        return builtin
    raise UserError(f"task: there is no lm-eval task {name!r}{_hint(name, own, builtin)}")


def _complete(manager: Any, name: str) -> bool:
    """Whether all members of a group are in the index; those that a group defines itself have a dataset."""
    members = (manager.task_index[name].cfg or {}).get("task") if name in manager.all_groups else None
    named = [one for one in members or [] if isinstance(one, str)]
    return all(one in manager.all_tasks and _complete(manager, one) for one in named)


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


def build_instances(task: Any, documents: int, settings: Settings, chat: Any = None) -> list[list[Any]]:
    """For each of the task's first documents its instances, in the order of their ``idx``.

    chat: renders messages, where a chat template is applied.
    """
    groups: list[list[Any]] = [[] for _ in range(documents)]
    with as_command_line():
        try:
            task.set_fewshot_seed(seed=settings.fewshot_seed)
            task.build_all_requests(
                limit=documents,
                system_instruction=settings.system_instruction,
                apply_chat_template=chat is not None,
                fewshot_as_multiturn=settings.multiturn,
                chat_template=chat,
            )
        except Exception as error:  # templates may run anything
            built = f"its questions with num_fewshot {task.get_config('num_fewshot')}"
            raise UserError(f"task {task.task_name!r}: {built} cannot be built: {_reason(error)}") from error
    for instance in task.instances:
        groups[instance.doc_id].append(instance)
    return [sorted(group, key=lambda instance: instance.idx) for group in groups]
