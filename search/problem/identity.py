"""What a run is about, by content: its checkpoints, its items, and the code of its evaluators.

A config names them by paths and names. What stands there may be replaced between two sessions of a run, and then the
scores of its trials are no longer comparable.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from mergesearch.copies import here
from mergesearch.evaluators import code_of, content_hash, content_of
from mergesearch.files import digest
from mergesearch.merge_ops.alignment.references import plain_references
from mergesearch.merge_ops.checkpoint.checkpoint import Checkpoint
from mergesearch.merge_ops.checkpoint.content import DIGITS, CheckpointContent
from mergesearch.merge_ops.checkpoint.side_files import TOKENIZER_FILES, side_files
from mergesearch.search.problem.problem import Problem
from mergesearch.search.problem.sides import calibration_files
from mergesearch.search.problem.task_set import TaskSet

FILE = "identity.json"
REMEDY = "remove it to go on without a comparison with what the run was begun with"


@dataclass(frozen=True)
class Identity:
    """The content of a run.

    ``items`` has by task and id the side and a digest of each item; ``files`` digests of code, settings and calibration
    texts by a name for the user.
    """

    checkpoints: Mapping[str, CheckpointContent]
    items: Mapping[str, Mapping[str, str]]
    files: Mapping[str, str]

    @classmethod
    def of(cls, problem: Problem, before: "Identity | None" = None) -> "Identity":
        """The content of a problem, whose tasks are prepared. What ``before`` says of unchanged files is not computed
        again.
        """
        known = before.checkpoints if before else {}
        texts = calibration_files(problem.config.recipe)
        return cls(
            {
                name: CheckpointContent.of(Checkpoint(name), known.get(name))
                for name in plain_references(problem.references)
            },
            items_content(problem.tasks),
            {
                **_code(problem.tasks),
                **{str(path): digest_of(Path(here(str(path)))) for path in texts},
                **_tokenizer_files(problem),
                **({"the texts of recover": digest_of(problem.recovery.kept)} if problem.recovery else {}),
            },
        )

    def changes(self, now: "Identity") -> list[str]:
        """What is another in ``now``, in words for the user."""
        return [*self._changed_checkpoints(now), *self._changed_items(now), *self._changed_files(now)]

    def _changed_checkpoints(self, now: "Identity") -> Iterator[str]:
        for name, content in self.checkpoints.items():
            other = now.checkpoints.get(name)
            for what, one, two in _pairs(content, other):
                if changed := _changed(one, two):
                    yield f"checkpoint {name}: {_counted(changed, one, two, what)}"

    def _changed_items(self, now: "Identity") -> Iterator[str]:
        for task, items in self.items.items():
            others = now.items.get(task, {})
            if changed := _changed(items, others):
                yield f"task {task!r}: {_counted(changed, items, others, 'items')}"

    def _changed_files(self, now: "Identity") -> Iterator[str]:
        for name in _changed(self.files, now.files):
            yield f"{name} {_what_happened(name, self.files, now.files)}"


def _tokenizer_files(problem: Problem) -> dict[str, str]:
    """Digests of the files of a tokenizer that is of none of the checkpoints."""
    source = problem.tokenizer.source if problem.tokenizer else "base"
    if source in ("base", "union", *problem.references):
        return {}
    folder = Checkpoint(source).tokenizer_folder
    return {f"{source}: {file.name}": digest_of(file) for file in side_files(folder, TOKENIZER_FILES)} if folder else {}


def items_content(tasks: TaskSet) -> dict[str, dict[str, str]]:
    """By task and id, the side of each item and a digest of its document, right answer and prompt."""
    return {
        task.name: {
            item.id: f"{side} {content_hash(content_of(task.evaluator, item))[:DIGITS]}"
            for side in ("search", "test")
            for item in task.items(side)
        }
        for task in tasks
    }


def _code(tasks: TaskSet) -> dict[str, str]:
    found = ((task.name, code_of(task.evaluator)) for task in tasks)
    return {f"{name} (task {task!r})": digest_of(part) for task, parts in found for name, part in parts.items()}


def digest_of(content: object) -> str:
    """A digest of a file, or of other content."""
    return (digest(content) if isinstance(content, Path) else content_hash(content))[:DIGITS]


def _pairs(
    one: CheckpointContent, two: CheckpointContent | None
) -> Iterator[tuple[str, Mapping[str, str], Mapping[str, str]]]:
    yield "tensors", one.tensors, two.tensors if two else {}
    yield "files", one.files, two.files if two else {}


def _changed(one: Mapping[str, str], two: Mapping[str, str]) -> list[str]:
    return [name for name in {**one, **two} if one.get(name) != two.get(name)]


def _counted(changed: list[str], one: Mapping[str, str], two: Mapping[str, str], what: str) -> str:
    """``2 of 20 tensors changed, the first one, lm_head.weight, has another content``."""
    first = f"the first, {changed[0]}, {_what_happened(changed[0], one, two)}"
    return f"{len(changed)} of {len({**one, **two})} {what} changed; {first}"


def _what_happened(name: str, one: Mapping[str, str], two: Mapping[str, str]) -> str:
    if name not in two:
        return "is gone"
    return "has another content" if name in one else "is new"
