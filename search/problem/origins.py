"""Merges as models of another run: where they come from, and how they are made from checkpoints that are no merges.

``mergesearch remerge`` writes a merge with its recipe and a file that says which run it is from. The items that this
run searched on are no test of the merge, nor of anything that is made of it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from mergesearch.copies import here
from mergesearch.errors import DamagedFileError, UserError
from mergesearch.files import write_text
from mergesearch.merge_ops.checkpoint.checkpoint import Checkpoint
from mergesearch.merge_ops.checkpoint.references import parse_reference
from mergesearch.merge_ops.engine.documents import read_recipes
from mergesearch.merge_ops.output.folder import RECIPE
from mergesearch.merge_ops.recipe.recipe import Recipe
from mergesearch.search.problem.tasks import Task

FILE = "origin.json"


@dataclass(frozen=True)
class Origin:
    """Where a merge comes from.

    Attributes:
        run: the folder of the run.
        trial: the number of its trial.
        tensors: the digest of the checkpoint.
        searched: the fingerprints of the items that were searched on, by this run and those that its models are from.
    """

    run: str
    trial: int
    tensors: str
    searched: list[str]

    @classmethod
    def of(cls, reference: str) -> "Origin | None":
        """The origin of a checkpoint; None for one that is no merge of a run."""
        file = Path(here(str(_folder(reference)))) / FILE
        if not file.is_file():
            return None
        try:
            return TypeAdapter(Origin).validate_json(file.read_bytes())
        except ValidationError as error:
            raise DamagedFileError(file, str(error), "make the merge again with mergesearch remerge") from None

    def write(self, folder: Path) -> None:
        """Writes it beside the checkpoint in ``folder``."""
        write_text(folder / FILE, TypeAdapter(Origin).dump_json(self).decode())


def searched_items(tasks: Iterable[Task], references: Sequence[str]) -> list[str]:
    """The fingerprints of the items that a run on these tasks and checkpoints, or an earlier one, searched on."""
    origins = filter(None, map(Origin.of, references))
    before = (item for origin in origins for item in origin.searched)
    return sorted({*before, *(item.fingerprint for task in tasks for item in task.search)})


def check_sealed(tasks: Iterable[Task], references: Sequence[str]) -> None:
    """Raises UserError where a test item was searched on by a run that a checkpoint is a merge of."""
    for reference in references:
        origin = Origin.of(reference)
        searched = set(origin.searched) if origin else set[str]()
        for task in tasks:
            seen = sum(item.fingerprint in searched for item in task.test)
            if origin and seen:
                raise UserError(
                    f"evaluate: {seen} of {len(task.test)} test items of task {task.name!r} were search items of the "
                    f"run {origin.run}, of which {reference} is a merge; take over that run's tasks and split, so that "
                    "its test items are still unseen"
                )


def from_checkpoints(recipe: Recipe) -> list[Recipe]:
    """The recipe after those of its models that are merges of runs, each named by the path of the merge.

    As documents of one file they give the bytes that the recipe gives, without these folders. A merge whose weights are
    not those that were written is a checkpoint like any other. Raises UserError where a merge was made of another one
    that stood in the same folder.
    """
    documents: dict[str, Recipe] = {}
    for reference in [*recipe.references, *recipe.tokenizers]:
        for document in _documents(str(_folder(reference))):
            text, name = document.to_yaml(), str(document.name)
            if documents.setdefault(name, document).to_yaml() != text:
                raise UserError(f"{name}: a merge was made of what stood in this folder before; make that merge again")
    return [*documents.values(), recipe]


def _documents(folder: str) -> list[Recipe]:
    origin = Origin.of(folder)
    if origin is None or _digest(folder, *_stamps(folder)) != origin.tensors:
        return []
    *inner, last = read_recipes(Path(here(folder)) / RECIPE)
    return [*inner, last.model_copy(update={"name": folder})]


@lru_cache(maxsize=64)
def _digest(folder: str, *_: object) -> str:
    return Checkpoint(folder).digest()


def _stamps(folder: str) -> list[tuple[str, int, int]]:
    """What changes when a file of the folder does."""
    stats = ((file.name, file.stat()) for file in sorted(Path(here(folder)).iterdir()))
    return [(name, stat.st_mtime_ns, stat.st_size) for name, stat in stats]


def _folder(reference: str) -> Path:
    return Path(parse_reference(reference).model)
