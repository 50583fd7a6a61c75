"""The engine: checkpoints and recipes in, merged models out, live or on disk, by one code path."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mergesearch.errors import UserError
from mergesearch.merge_ops.assembly.coefficient_gradients import backward_in_place, coefficients, is_exact, slopes
from mergesearch.merge_ops.assembly.merger import Assembly, Merger, Uses, passes, torch_dtype
from mergesearch.merge_ops.checkpoint.checkpoint import common_dtype, tensors_digest
from mergesearch.merge_ops.engine.depth import DeepModels
from mergesearch.merge_ops.inputs.aligned_names import aligned
from mergesearch.merge_ops.inputs.memory import MemoryPlan, Residents
from mergesearch.merge_ops.kernels.combine import combine_all
from mergesearch.merge_ops.live import live
from mergesearch.merge_ops.output.folder import write_folder
from mergesearch.merge_ops.recipe.recipe import Recipe

__all__ = ["Engine", "Merger", "Uses", "check_output", "find_device", "merge", "torch_dtype"]


Say = Callable[[str], object]
"""Takes lines for the user."""


def silent(_: str) -> None:
    pass


class Engine:
    """Checkpoints kept in memory, and one live model into which candidates are built.

    ``template`` gives the live model its architecture, config and tokenizer; its floats are of ``dtype``, or of the
    checkpoints' one dtype. Recipes name only ``references``. The memory plan leaves room for ``uses``: the methods that
    recipes will be of, and gradients where ``slopes`` will be asked for. ``model`` and ``tokenizer`` are what
    transformers loads.
    """

    def __init__(
        self,
        references: Sequence[str],
        template: str,
        dtype: str | None = None,
        device: str = "cpu",
        uses: Uses | None = None,
    ) -> None:
        self._merger = Merger(references, resident=True, device=device, uses=uses)
        self._dtype = torch_dtype(dtype) or common_dtype(list(self._merger.checkpoints.values()))
        checkpoint = self._merger.checkpoints[template]
        self.model: nn.Module
        self.tokenizer: Any
        self.model, self.tokenizer = live.load(checkpoint, device, self._dtype)
        views = live.bind_input(self.model, self._merger.inputs[template])
        self._views = {name: views[name] for name in self.names}
        self._own = self.model, self._views
        self._deep = DeepModels(self._merger, self.model, self._dtype)
        self._built: Recipe | None = None

    @property
    def names(self) -> list[str]:
        """The tensors' names."""
        return self._merger.names

    def build(self, recipe: Recipe) -> nn.Module:
        """Builds the recipe's model into the live model, which it returns; what was there before is gone.

        A recipe of slices is built into a live model of its own depth, which takes the place of ``model``. Raises
        UserError, before anything is written, where the recipe is of another dtype than the live model, or has a
        vocabulary of its own.
        """
        self._built = None
        if recipe.keeps_shapes or recipe.vocabulary:
            self.model, self._views = self._own
            self.build_many([recipe], [self._views])
        else:
            self.model, self._views = self._deep.build(self._checked(recipe))
        self._built = recipe
        return self.model

    def build_many(self, recipes: Sequence[Recipe], outs: Sequence[Mapping[str, Tensor]]) -> None:
        """Writes each recipe's model to its own tensors by name, such as ``views``; inputs are read once for all.

        Only that far: recipes whose methods take the same models and base share the reading.
        """
        assemblies = [self._assembly(recipe) for recipe in recipes]
        if self._merger.keeps_all:
            combine_all(one for name in self.names for one in passes(assemblies, name, [o[name] for o in outs]))
        else:
            self._build_in_turn(assemblies, outs)

    def _build_in_turn(self, assemblies: Sequence[Assembly], outs: Sequence[Mapping[str, Tensor]]) -> None:
        """One tensor after the other, as they come from where they are kept."""
        for name, following in zip(self.names, [*self.names[1:], None], strict=True):
            if following is not None:
                self._merger.prefetch(assemblies[0].parts[following].inputs)
            with self._residents.shared():
                combine_all(passes(assemblies, name, [tensors[name] for tensors in outs]))

    def coefficients(self, recipe: Recipe) -> dict[str, tuple[float, ...]] | None:
        """Each tensor's coefficients of the base and the models, in so far as it is their linear combination.

        Trimming, dropping and election are overlooked; None where a tensor has no coefficients at all.
        """
        return coefficients(self._assembly(recipe), self.names)

    def is_linear(self, recipe: Recipe) -> bool:
        """Whether the recipe's model is the linear combination that ``coefficients`` says, with nothing overlooked."""
        return is_exact(self._assembly(recipe), self.names)

    def slopes(self, recipe: Recipe, backward: Callable[[], float]) -> tuple[float, dict[str, tuple[float, ...]]]:
        """Builds the recipe, and gives its loss with the derivatives by its ``coefficients``.

        ``backward`` computes the live model's loss, returns it, and leaves its gradients on the parameters. The live
        model is of no use afterwards until another candidate is built.
        """
        self.build(recipe)
        self._built = None
        loss = backward_in_place(self.model, backward)
        return loss, slopes(self._assembly(recipe), self._views)

    def _assembly(self, recipe: Recipe) -> Assembly:
        if not recipe.keeps_shapes:
            what = "a vocabulary of its own" if recipe.vocabulary else "slices"
            raise UserError(f"the recipe has {what}: it cannot be built into the live model, whose shape is fixed")
        return self._checked(recipe)

    def _checked(self, recipe: Recipe) -> Assembly:
        assembly = Assembly(self._merger, recipe)
        found = torch_dtype(recipe.target_dtype) or common_dtype(
            [self._merger.checkpoints[r] for r in recipe.references]
        )
        if found != self._dtype:
            raise UserError(f"dtype: the recipe's is {found}, the live model's {self._dtype}")
        return assembly

    @property
    def views(self) -> Mapping[str, Tensor]:
        """The live model's tensors by their names in the checkpoints; what is written to them is in the model."""
        return self._views

    @property
    def memory(self) -> MemoryPlan:
        """What is kept where; as text, a line for the user."""
        return self._residents.plan

    @property
    def _residents(self) -> Residents:
        assert self._merger.residents is not None
        return self._merger.residents

    def digest(self) -> str:
        """SHA-256 over the tensors that ``save`` writes, by name, as a written folder's ``checkpoint.digest`` is."""
        beside = set(self.names) - set(self._writer(self._now).names)
        return tensors_digest((name, self._views[name]) for name in sorted(self._views.keys() - beside))

    def write(self, recipe: Recipe, out: Path) -> None:
        """Writes the recipe's model as ``merge`` does."""
        merger = self._writer(recipe)
        write_folder(Assembly(merger, recipe), merger, out)

    def _writer(self, recipe: Recipe) -> Merger:
        """The engine's merger, but for recipes whose models have fewer tensors when they are seen by themselves.

        Those with one embedding for both ends show it twice beside one that has two.
        """
        references = recipe.references
        alone = aligned([self._merger.checkpoints[reference] for reference in references])
        fewer = all(alone[r].own.items() < self._merger.inputs[r].own.items() for r in references)
        return Merger(references, device=self._merger.device) if fewer else self._merger

    @property
    def built(self) -> Recipe | None:
        """The recipe that is in the live model now; None where there is none yet."""
        return self._built

    def save(self, out: Path) -> None:
        """Writes the model that was built last, as ``write`` does."""
        self.write(self._now, out)

    @property
    def _now(self) -> Recipe:
        if self._built is None:
            raise RuntimeError("no recipe was built into the live model yet")
        return self._built


def merge(
    recipe: Recipe,
    out: Path,
    places: Mapping[str, Path] | None = None,
    text: str | None = None,
    say: Say = silent,
) -> None:
    """Writes the recipe's model to the folder ``out`` as transformers loads it, or nothing where it fails.

    One tensor is in memory at a time. Beside the weights: config, tokenizer and generation config of the base (the
    first model where there is none), changed as the recipe asks, and a model card with the recipe. ``places`` says
    where checkpoints lie that go by other names than their path; ``text`` is the recipe to keep, where it is a part of
    a larger one; ``say`` is given the memory plan. Raises UserError where ``out`` is not empty.
    """
    check_output(out)
    merger = Merger(recipe.references, places=places)
    say(str(merger.streaming))
    write_folder(Assembly(merger, recipe), merger, out, text)


def check_output(out: Path) -> None:
    """Raises UserError unless ``out`` is free: not there, or an empty folder."""
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise UserError(f"{out}: is there already; give a new name or remove it")


def find_device(wished: str) -> str:
    """``auto`` is the GPU where there is one. Raises UserError for a GPU that is not there."""
    found = "cuda" if torch.cuda.is_available() else "cpu"
    if wished == "cuda" and found != "cuda":
        raise UserError("device: found 'cuda', but torch sees no GPU here; use cpu or auto")
    return found if wished == "auto" else wished
