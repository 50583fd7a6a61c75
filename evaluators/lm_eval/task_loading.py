"""lm-eval's tasks: loaded by name, configured and rendered as lm-eval's command line does it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from lm_eval.defaults import DEFAULT_OTHER_SEED
from lm_eval.tasks import TaskManager

from mergesearch.errors import UserError, in_words, listed, nearest
from mergesearch.evaluators.lm_eval.command_line import as_command_line
from mergesearch.evaluators.lm_eval.task_code import only_trusted_code
from mergesearch.reading import check_file


@dataclass(frozen=True)
class TaskOverrides:
    """What the command line's arguments change in every task. See ``LmEvalOptions`` for their meaning."""

    num_fewshot: int | None = None
    fewshot_seed: int = DEFAULT_OTHER_SEED
    gen_kwargs: Mapping[str, Any] | None = None
    system_instruction: str | None = None
    fewshot_as_multiturn: bool = False
    confirm_run_unsafe_code: bool = False


@dataclass(frozen=True)
class LoadedTasks:
    """The tasks that a name stands for.

    Attributes:
        tasks: lm-eval's task objects.
        group: lm-eval's group object, if the name is a group with an aggregation. Otherwise None.
    """

    tasks: Sequence[Any]
    group: Any | None


def load_tasks(name: str, include_path: Path | None, overrides: TaskOverrides) -> LoadedTasks:
    """Loads a task, or the tasks of a group or tag, with their documents. Raises UserError if that fails."""
    manager = _manager_with(name, include_path)
    with as_command_line(), only_trusted_code(name):
        try:
            loaded = manager.load([name])
        except UserError:
            raise
        except Exception as error:  # a task's YAML may run any code
            raise UserError(f"task {name!r} cannot be loaded: {_reason(error)}") from error
        for task in loaded["tasks"].values():
            _configure(task, overrides)
            _check_supported(task, overrides)
    group = loaded["groups"].get(name)
    return LoadedTasks(list(loaded["tasks"].values()), group if group and group.has_aggregation else None)


def _reason(error: Exception) -> str:
    """The error in words, and what to do if the Hugging Face hub cannot be reached."""
    text = in_words(error)
    if type(error).__name__ == "DatasetGenerationError" and isinstance(error.__cause__, Exception):
        return f"its data cannot be read: {in_words(error.__cause__)}"
    if isinstance(error, ConnectionError):
        return (
            "its data is not on this machine and the Hugging Face hub cannot be reached; "
            f"download the data set first, or check the network ({text})"
        )
    if isinstance(error, IndexError) and text.endswith("string index out of range"):
        return f"lm-eval expects no empty text in the answer or the choices of its first document ({text})"
    return "its split has no documents" if isinstance(error, StopIteration) else text


def _configure(task: Any, overrides: TaskOverrides) -> None:
    """What ``lm_eval.simple_evaluate`` does: a task whose own ``num_fewshot`` is 0 keeps it."""
    if overrides.gen_kwargs and task.get_config("output_type") == "generate_until":
        task.set_config(key="generation_kwargs", value=dict(overrides.gen_kwargs), update=True)
    default = task.get_config("num_fewshot")
    if overrides.num_fewshot is not None and default != 0:
        task.set_config(key="num_fewshot", value=overrides.num_fewshot)
    elif default is None:
        task.set_config(key="num_fewshot", value=0)
    task.set_fewshot_seed(seed=overrides.fewshot_seed)


def _check_supported(task: Any, overrides: TaskOverrides) -> None:
    name = task.task_name
    if getattr(task, "MULTIMODAL", False):
        raise UserError(f"task {name!r} needs images or audio; only text tasks are supported")
    if getattr(task, "UNSAFE_CODE", False) and not overrides.confirm_run_unsafe_code:
        raise UserError(
            f"task {name!r} runs code that the model writes, on this machine and with your permissions; "
            "set confirm_run_unsafe_code: true to allow it"
        )


def _manager_with(name: str, include_path: Path | None) -> Any:
    """The task manager that has the task: of the user's own folder if the task is there, otherwise of lm-eval."""
    if include_path is not None and not include_path.is_dir():
        raise UserError(f"include_path: there is no folder {str(include_path)!r}")
    for path in _yaml_files(include_path) if include_path else ():
        check_file(path)
    own = TaskManager(include_path=str(include_path), include_defaults=False) if include_path else None
    if own and name in own.all_tasks:
        return own if _has_all_members(own, name) else TaskManager(include_path=str(include_path))
    if include_path:
        _check_files(name, own, include_path)
    builtin = builtin_manager()
    if name in builtin.all_tasks:
        return builtin
    raise UserError(f"task: there is no lm-eval task {name!r}{_hint(name, own, builtin)}")


def usual_metric(name: str, include_path: Path | None = None) -> str:
    """The metric of a task or group by which it is usually judged, ``METRIC`` or ``METRIC,FILTER``.

    Nothing of the task's data is read. Raises UserError where there is no such task.
    """
    config = _manager_with(name, include_path).task_index[name].cfg or {}
    metrics = config.get("metric_list") or config.get("aggregate_metric_list") or [{"metric": "acc"}]
    chosen = next((each for each in metrics if each["metric"] == "acc"), metrics[0])
    filters = chosen.get("filter_list") or [each["name"] for each in config.get("filter_list") or []]
    first = filters if isinstance(filters, str) else next(iter(filters), "none")
    return str(chosen["metric"]) if first == "none" else f"{chosen['metric']},{first}"


def _has_all_members(manager: Any, name: str) -> bool:
    """Whether the manager has all members of a group that are given by name; others are defined in the group itself."""
    members = (manager.task_index[name].cfg or {}).get("task") if name in manager.all_groups else None
    names = [member for member in members or [] if isinstance(member, str)]
    return all(member in manager.all_tasks and _has_all_members(manager, member) for member in names)


@cache
def builtin_manager() -> Any:
    """The manager of lm-eval's own tasks. Reading their YAML files takes about five seconds."""
    return TaskManager()


def _hint(name: str, own: Any, builtin: Any) -> str:
    own_tasks = own.all_subtasks if own else []
    hint = nearest(name, {*own_tasks, *builtin.all_subtasks})
    if hint.startswith("; did you mean"):
        return hint
    return f"; tasks in include_path: {listed(own_tasks)}" if own_tasks else "; `lm-eval ls tasks` lists all tasks"


def _yaml_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*.y*ml") if not path.is_dir())


def _check_files(name: str, own: Any, include_path: Path) -> None:
    """Raises UserError if a file that lm-eval ignores without a message may be the task's."""
    for path in _yaml_files(include_path):
        text = path.read_text(encoding="utf-8", errors="replace")
        if name != path.stem and f"task: {name}\n" not in f"{text}\n":
            continue
        if path.suffix != ".yaml":
            raise UserError(
                f"task: {name!r} may be in {path}, but lm-eval reads only files that end with .yaml; rename the file"
            )
        raise UserError(f"task: {name!r} is not in {path}: {_file_problem(own, path)}")


def _file_problem(own: Any, path: Path) -> str:
    names = [name for name, entry in own.task_index.items() if entry.yaml_path == path]
    if names:
        return f"the file has the tasks {listed(map(repr, names))}"
    try:
        with only_trusted_code(path.stem):
            own.load([str(path)])
    except UserError:
        raise
    except Exception as error:  # a task's YAML may run any code
        return _reason(error)
    return "lm-eval ignores the file"


def build_instances(task: Any, documents: int, overrides: TaskOverrides, chat: Any = None) -> list[list[Any]]:
    """The instances of the task's first documents.

    Args:
        task: lm-eval's task object.
        documents: Number of documents.
        overrides: See ``TaskOverrides``.
        chat: Renders messages with a chat template. None: there is none.

    Returns:
        For each document its instances, in the order of their ``idx``.
    """
    by_document: list[list[Any]] = [[] for _ in range(documents)]
    with as_command_line():
        try:
            task.set_fewshot_seed(seed=overrides.fewshot_seed)
            task.build_all_requests(
                limit=documents,
                system_instruction=overrides.system_instruction,
                apply_chat_template=chat is not None,
                fewshot_as_multiturn=overrides.fewshot_as_multiturn,
                chat_template=chat,
            )
        except Exception as error:  # a template may run any code
            fewshot = task.get_config("num_fewshot")
            raise UserError(
                f"task {task.task_name!r}: its prompts with num_fewshot {fewshot} cannot be built: {_reason(error)}"
            ) from error
    for instance in task.instances:
        by_document[instance.doc_id].append(instance)
    return [sorted(instances, key=lambda instance: instance.idx) for instances in by_document]


def cache_rendering(task: Any, docs: Sequence[Any]) -> None:
    """Renders each document's target, choices and text once. lm-eval renders them again for every candidate."""
    cached_docs = {id(doc) for doc in docs}
    for name in ("doc_to_target", "doc_to_choice", "doc_to_text"):
        if hasattr(task, name):
            setattr(task, name, _cached(getattr(task, name), cached_docs))


def _cached(render: Any, cached_docs: set[int]) -> Any:
    """``render`` with a cache by the identity of the document."""
    results: dict[int, Any] = {}

    def rendered(doc: Any, *arguments: Any) -> Any:
        key = id(doc)
        if arguments or key not in cached_docs:
            return render(doc, *arguments)
        if key not in results:
            results[key] = render(doc)
        return list(results[key]) if isinstance(results[key], list) else results[key]

    return rendered
