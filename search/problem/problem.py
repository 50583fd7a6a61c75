"""A config made ready to run: everything that can be wrong with it is found here, before anything is scored."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mergesearch.errors import Problems, UserError, listed, located, nearest
from mergesearch.merge_ops.alignment.references import aligned_paths, plain_references
from mergesearch.merge_ops.assembly.assembly import Assembly
from mergesearch.merge_ops.assembly.merger import Merger
from mergesearch.merge_ops.checkpoint.checkpoint import Checkpoint, common_dtype
from mergesearch.merge_ops.inputs.chat_templates import chat_template
from mergesearch.merge_ops.inputs.compatibility import check_compatible
from mergesearch.merge_ops.inputs.equal_models import equal_model_warnings
from mergesearch.merge_ops.inputs.guessed_names import is_embedding
from mergesearch.merge_ops.inputs.standalone import standalone
from mergesearch.merge_ops.inputs.vocabulary_match import changes_nothing
from mergesearch.merge_ops.live.built import find_builder
from mergesearch.merge_ops.live.dequantized import dequantized_paths
from mergesearch.merge_ops.recipe.recipe import Recipe, layer_of
from mergesearch.merge_ops.recipe.vocabulary_config import TokenizerConfig
from mergesearch.parsing import parse
from mergesearch.search.config import Config, Evaluate, read_sections
from mergesearch.search.config.paths import folder_of
from mergesearch.search.problem.checks import (
    check_layer_ranges,
    check_same_computation,
    check_seams,
    possible_templates,
    referenced_checkpoints,
)
from mergesearch.search.problem.origins import check_sealed
from mergesearch.search.problem.recovery_texts import RecoveryTexts, open_recovery
from mergesearch.search.problem.sides import calibration_texts
from mergesearch.search.problem.task_set import TaskSet, open_tasks
from mergesearch.search.space.parameters import MOST_KNOTS
from mergesearch.search.space.space import Space
from mergesearch.trust import trust_code

LAYERED = {"slices", "modules"}
"""Keys of recipes that cannot be checked without the models' numbers of layers."""
SHARED_KEYS = ("dtype", "out_dtype", "tokenizer", "on_mismatch", "on_config_mismatch", "chat_template", "dequantize")
"""Keys that baselines and soups take over from the recipe."""


@dataclass(frozen=True)
class Problem:
    """What a search is about: the config, the space of recipes, the tasks, and the checkpoints.

    ``references`` are all checkpoints that a candidate may name; the live model is made from ``template``.
    ``starts`` has one candidate of each method, assembled. ``shared_keys`` are recipe keys that baselines and soups
    have in common with the candidates. ``chat_template`` is that of all candidates, if the recipe names one.
    ``vocabulary`` says in a line what theirs is, where it is not that of every model.
    ``recovery`` has the texts that the winner is recovered on.
    ``standalone`` are the checkpoints that are other models than the template with other weights: as baselines they are
    scored with their own config and tokenizer. So is a template whose vocabulary is not that of the candidates.
    """

    config: Config
    space: Space
    tasks: TaskSet
    references: Sequence[str]
    template: str
    starts: Mapping[str, Assembly]
    shared_keys: Mapping[str, object]
    standalone: Sequence[str] = ()
    config_warnings: Sequence[str] = ()
    chat_template: str | None = None
    vocabulary: str = ""
    recovery: RecoveryTexts | None = None

    @property
    def warnings(self) -> list[str]:
        """What the user should know about the checkpoints, one line each."""
        found = [line for start in self.starts.values() for line in start.layout.warnings]
        return list(dict.fromkeys([*self.config_warnings, *found]))

    @property
    def dequantizes(self) -> bool:
        """Whether quantized checkpoints are dequantized."""
        return self.config.recipe.get("dequantize") is True

    @property
    def tokenizer(self) -> TokenizerConfig | None:
        """The vocabulary of all candidates, where it is not that of every model."""
        given = self.config.recipe.get("tokenizer")
        return TokenizerConfig.model_validate(given) if given else None

    def checkpoint(self, reference: str) -> Checkpoint:
        """One of the checkpoints, dequantized and aligned where the recipe says so."""
        paths = dequantized_paths(plain_references([reference]), None) if self.dequantizes else None
        return Checkpoint(reference, aligned_paths([reference], paths))

    @property
    def dtype(self) -> str | None:
        """The dtype of candidates, where the recipe names one."""
        return self.config.recipe.get("out_dtype") or self.config.recipe.get("dtype")


def read_config(file: Path, **overrides: Any) -> Config:
    """``Config.read``, whose error also has what is wrong with the recipe and the tasks, as far as that can be told."""
    data, problems = read_sections(file, **overrides), Problems()
    config = problems.attempt(parse, Config, data, str(file))
    if config is None and isinstance(data, dict):
        with trust_code(data.get("trust") is True):
            problems.attempt(_check_sections, data, str(file))
    problems.check()
    assert config is not None
    return config


def _check_sections(data: Mapping[str, Any], where: str) -> None:
    """Checks the recipe and the tasks of a config that is wrong elsewhere. Raises UserError."""
    problems, aside = Problems(), Problems()
    recipe, evaluate = data.get("recipe"), aside.attempt(parse, Evaluate, data.get("evaluate"), "evaluate")
    with located(where):
        if isinstance(recipe, dict):
            problems.attempt(open_recipe, recipe, folder_of(Path(where)))
        if evaluate is not None:
            problems.attempt(open_tasks, evaluate)
        problems.check()


def open_problem(config: Config, where: str) -> Problem:
    """Checks a config against the disk and lm-eval.

    Raises UserError with everything that is wrong; each message begins with ``where``.
    """
    problems = Problems()
    with located(where):
        if config.builder is not None:
            problems.attempt(find_builder, config.builder)
        opened = problems.attempt(open_recipe, config.recipe, folder_of(Path(where)))
        texts, graded = calibration_texts(config.recipe), config.search.signal != "metric"
        tasks = problems.attempt(lambda: open_tasks(config.evaluate, texts, graded))
        problems.check()
        assert opened is not None
        assert tasks is not None
        if config.search.signal == "graded":
            _check_graded(tasks)
        check_sealed(tasks, opened.references)
        recovery = None
        if config.recover:
            recovery = open_recovery(config.recover, opened.space.models, opened.space.base, tasks)
    return replace(opened.problem(config, tasks), recovery=recovery)


def _check_graded(tasks: TaskSet) -> None:
    counted = tasks.counted("search")
    if not any(task.graded for task in counted):
        raise UserError(
            f"search.signal: found graded, but {listed(repr(task.name) for task in counted)} has no margins, which "
            "grades are made from; set auto or metric"
        )


@dataclass(frozen=True)
class _OpenRecipe:
    """A recipe whose vocabulary is the same in every candidate, and what ``Problem`` has of it."""

    recipe: dict[str, Any]
    space: Space
    references: Sequence[str]
    starts: Mapping[str, Assembly]
    shared: Mapping[str, object]
    standalone: Sequence[str]
    warnings: Sequence[str]
    chat_template: str | None
    vocabulary: str

    def problem(self, config: Config, tasks: TaskSet) -> Problem:
        """The problem of this recipe, with a config's tasks."""
        return Problem(
            config.model_copy(update={"recipe": self.recipe}),
            self.space,
            tasks,
            self.references,
            self.references[0],
            self.starts,
            self.shared,
            self.standalone,
            self.warnings,
            self.chat_template,
            self.vocabulary,
        )


def open_recipe(recipe: dict[str, Any], folder: Path) -> _OpenRecipe:
    """Checks a recipe with holes against its checkpoints. ``folder``: that of the config, for messages.

    Raises UserError.
    """
    references, merger, space = _open_models(recipe, folder)
    checkpoints = list(merger.checkpoints.values())
    if not {"dtype", "out_dtype"} & recipe.keys():
        common_dtype(checkpoints)
    if vocabulary := space.fill(space.methods[0], space.start(space.methods[0], {})).vocabulary:
        recipe, merger = _with_one_vocabulary(recipe, vocabulary, merger)
        space = Space(recipe, _layer_count(merger.names), "recipe")
    starts = {method.name: _assembled(space.fill(method, space.start(method, {})), merger) for method in space.methods}
    used_otherwise = check_same_computation([merger.inputs[r] for r in possible_templates(space, recipe, references)])
    check_seams(space, merger.names)
    check_layer_ranges(space, lambda candidate: _assembled(candidate, merger))
    shared: dict[str, object] = {key: recipe[key] for key in SHARED_KEYS if key in recipe}
    others = standalone(merger.inputs, merger.copies.changed if merger.copies else ())
    if others or merger.label_orders or not _are_alike(list(merger.checkpoints.values())):
        shared["base_model"] = references[0]  # so that soups are the template with other weights
    warnings = [*_config_warnings(recipe, merger), *used_otherwise]
    chat_template, summary = _chat_template(recipe, merger), merger.copies.summary if merger.copies else ""
    return _OpenRecipe(recipe, space, references, starts, shared, others, warnings, chat_template, summary)


def _open_models(recipe: Mapping[str, Any], folder: Path) -> tuple[list[str], Merger, Space]:
    """The checkpoints of a recipe and its space, each checked even if the other is wrong. Raises UserError."""
    problems = Problems()
    references = problems.attempt(referenced_checkpoints, recipe)
    merger = problems.attempt(Merger, references, dequantize=recipe.get("dequantize") is True) if references else None
    if not merger:
        problems.found += _taken_for_names(references or (), folder)
    space = None
    if merger or not LAYERED & recipe.keys():
        layers = _layer_count(merger.names) if merger else MOST_KNOTS
        space = problems.attempt(Space, recipe, layers, "recipe")
    problems.check()
    assert references
    assert merger is not None
    assert space is not None
    return references, merger, space


def _taken_for_names(references: Sequence[str], folder: Path) -> Iterator[str]:
    """A line for each reference that is not in the config's folder, although a part of its path is."""
    for reference in references:
        path = folder.resolve() / reference
        if not Path(reference).is_absolute() and path.parent.is_dir():
            near = nearest(path.name, [entry.name for entry in path.parent.iterdir() if entry.is_dir()])
            yield f"recipe: {reference}: is not in {path.parent}, beside the config, so it is a name on the hub{near}"


def _with_one_vocabulary(
    recipe: Mapping[str, Any], vocabulary: TokenizerConfig, merger: Merger
) -> tuple[dict[str, Any], Merger]:
    """The recipe, and its models, in one vocabulary: as they are where all have it, else in copies.

    The recipe names all models whose vocabularies count, since not every candidate has all of them. Raises UserError.
    """
    others = {key: value for key, value in recipe.items() if key not in ("tokenizer", "tokenizer_source")}
    references = list(merger.inputs)
    if _is_idle(vocabulary, merger):
        return others, merger
    if vocabulary.models not in ([], references):
        raise UserError(
            f"recipe: tokenizer.models: found {listed(vocabulary.models)}; leave it out: in a search all models count"
        )
    named = vocabulary.model_copy(update={"models": references})
    given = named.model_dump(exclude_defaults=True, exclude_none=True)
    with located("recipe"):
        return {**others, "tokenizer": given}, Merger(references, dequantize=merger.dequantizes, tokenizer=named)


def _is_idle(vocabulary: TokenizerConfig, merger: Merger) -> bool:
    """Whether the vocabulary is that of every model. Raises UserError."""
    entries = list(merger.inputs.values())
    names = [name for name in entries[0].tensors if is_embedding(name)]
    sizes = {entry.tensors[name].shape[0] for entry in entries for name in names if name in entry.tensors}
    checkpoints = [entry.checkpoint for entry in entries]
    return len(sizes) == 1 and changes_nothing(vocabulary, checkpoints, next(iter(sizes)))


def _are_alike(checkpoints: Sequence[Checkpoint]) -> bool:
    """Whether all have the same tensors in the same shapes."""
    layouts = [{name: info.shape for name, info in checkpoint.tensors.items()} for checkpoint in checkpoints]
    return all(layout == layouts[0] for layout in layouts)


def _chat_template(recipe: Mapping[str, object], merger: Merger) -> str | None:
    """The text of the recipe's chat template. Raises UserError where there is none of this name."""
    owned = ((reference, entry.tokenizer_folder) for reference, entry in merger.checkpoints.items())
    folders = {reference: folder for reference, folder in owned if folder}
    with located("recipe"):
        return chat_template(str(recipe["chat_template"]), folders) if recipe.get("chat_template") else None


def _config_warnings(recipe: Mapping[str, object], merger: Merger) -> list[str]:
    """Compares the checkpoints, each with the template: a candidate may leave out some. Raises UserError."""
    lenient = recipe.get("on_config_mismatch") == "warn"
    with located("recipe"):
        models, has_template = list(merger.inputs.values()), recipe.get("chat_template") is not None
        leaves_heads = recipe.get("on_mismatch") == "base"
        found = check_compatible(models, lenient, "models" in recipe, has_template, leaves_heads)
        return found + equal_model_warnings(models)


def _assembled(recipe: Recipe, merger: Merger) -> Assembly:
    """Raises UserError where the candidate cannot be merged."""
    with located("recipe"):
        return Assembly(merger, recipe)


def _layer_count(names: Sequence[str]) -> int:
    return 1 + max((place[1] for place in map(layer_of, names) if place), default=0)
