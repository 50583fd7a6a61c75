"""The texts that the winner of a search is recovered on: none of them shares content with an item of a task."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec

from mergesearch.errors import UserError
from mergesearch.evaluators import ItemTexts, documents_of
from mergesearch.merge_ops.after_merge.recovery.texts import Passages, characters, digest_of, name_of, ordered
from mergesearch.merge_ops.recipe.recipe import Recipe
from mergesearch.merge_ops.recipe.recovery import EXPERTS, FOR_ALL, Recovery
from mergesearch.search.problem.task_set import TaskSet
from mergesearch.search.problem.tasks import Task


@dataclass(frozen=True)
class RecoveryTexts:
    """The passages that parents run on.

    Attributes:
        settings: the section ``recover`` of the config.
        parents: the references of all parents; a candidate may have some of them only.
        kept: the passages that are drawn.
        left_out: the names of those that would be drawn, but share content with items, of each text.
    """

    settings: Recovery
    parents: Sequence[str]
    kept: Passages
    left_out: Mapping[str, Sequence[str]]

    @property
    def notes(self) -> list[str]:
        """What was left out, one line for each text."""
        paths = self.settings.paths_of(self.parents)
        return [
            f"recover: {len(names)} of {len(names) + len(self.kept[text])} passages of {paths[text]} share content "
            "with items of the tasks, and are left out"
            for text, names in self.left_out.items()
            if names
        ]

    def after(self, recipe: Recipe) -> Recipe:
        """The recipe with recovery by those of its models that are parents, on exactly these passages."""
        names = [name for name in self.parents if name in recipe.references]
        texts = [FOR_ALL] if FOR_ALL in self.kept else names
        given = self.settings
        update = {
            "data": given.data if isinstance(given.data, str) else {name: given.data[name] for name in names},
            "parents": names if given.parents != EXPERTS else EXPERTS,
            "without": sorted({name for text in texts for name in self.left_out[text]}),
        }
        recovered = recipe.model_copy(update={"recover": given.model_copy(update=update)})
        order = [FOR_ALL] if FOR_ALL in self.kept else recovered.recovery_parents
        digest = digest_of({text: self.kept[text] for text in order})
        return recipe.model_copy(update={"recover": given.model_copy(update={**update, "digest": digest})})


def open_recovery(settings: Recovery, models: Sequence[str], base: str | None, tasks: TaskSet) -> RecoveryTexts:
    """Reads the texts, and keeps what shares nothing with any item, used or not.

    Raises UserError where a parent has no text left, a text cannot be read, or peft is missing.
    """
    if settings.how == "distill" and not settings.full and find_spec("peft") is None:
        raise UserError(
            "recover: LoRA needs the package peft: pip install 'mergesearch[recover]'; full: true does without"
        )
    parents = settings.parents_of([model for model in models if model != base], base)
    items, count = ItemTexts([_texts(task) for task in tasks]), characters(settings, len(parents))
    kept, left_out = {}, {}
    for text, passages in ordered(settings, parents).items():
        drawn = list(_until(passages, items, count))
        kept[text] = [passage for passage, shares in drawn if not shares]
        left_out[text] = [name_of(passage) for passage, shares in drawn if shares]
        if not kept[text]:
            raise UserError(
                f"recover.data: all {len(drawn)} passages of {settings.paths_of(parents)[text]} share content with "
                "items of the tasks, which recovery must not see; give other texts"
            )
    return RecoveryTexts(settings, parents, kept, left_out)


def _texts(task: Task) -> dict[str, str]:
    """By item what it is about. Items that a field of their documents groups have no text of their own."""
    items = task.evaluator.items
    documents = zip(items, documents_of(task.evaluator, items), strict=True)
    return {item.id: item.text or "\n".join([each.question, each.right, *each.choices]) for item, each in documents}


def _until(passages: Sequence[str], items: ItemTexts, wanted: int) -> Iterator[tuple[str, bool]]:
    """Passages, and whether they share content with an item, until so many characters do not."""
    for passage in passages:
        if wanted <= 0:
            return
        shares = items.share(passage)
        wanted -= 0 if shares else len(passage)
        yield passage, shares
