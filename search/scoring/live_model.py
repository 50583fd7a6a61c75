"""The live model of a run: candidates are built into it, and evaluators score it."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from mergesearch.evaluators import EVALUATORS, Budget, LoadedModel
from mergesearch.merge_ops.checkpoint.architecture import architecture
from mergesearch.merge_ops.checkpoint.checkpoint import Checkpoint
from mergesearch.merge_ops.engine.engine import Engine, MemoryReserve, find_device
from mergesearch.merge_ops.live.built import Builder, containers, find_builder
from mergesearch.merge_ops.live.quantized import quantized
from mergesearch.search.config import Config
from mergesearch.search.config.evaluate import Evaluate
from mergesearch.search.problem.problem import Problem
from mergesearch.search.problem.tasks import Task


def open_engine(problem: Problem, takes_gradients: bool) -> Engine:
    """The engine with the problem's checkpoints in memory, on the config's device."""
    methods = [*problem.space.methods, *problem.space.slice_methods.values()]
    reserve = MemoryReserve(methods, takes_gradients, problem.standalone)
    builder = builder_for(problem.config, problem.tasks, problem.template)
    device = find_device(problem.config.device)
    engine = Engine(
        problem.references,
        problem.template,
        problem.dtype,
        device,
        reserve,
        problem.standalone,
        builder,
        problem.dequantizes,
        tokenizer=problem.tokenizer,
    )
    if problem.chat_template is not None and engine.tokenizer is not None:
        engine.tokenizer.chat_template = problem.chat_template
    return engine


def builder_for(config: Config, tasks: Iterable[Task], reference: str) -> Builder | None:
    """What makes the live model of a checkpoint: the config's builder, or None for transformers.

    Where every task is a program, which reads the candidate from the disk, a model that transformers does not know
    needs no builder.
    """
    if config.builder is not None:
        return find_builder(config.builder)
    runs_programs = all(isinstance(task.evaluator, EVALUATORS["command"]) for task in tasks)
    return containers if runs_programs and architecture(Checkpoint(reference)) is None else None


def scored_model(model: Any, evaluate: Evaluate, built: Callable[[], object]) -> Any:
    """The model that is scored: ``model``, or its quantised double; ``built`` says which recipe ``model`` holds now."""
    return model if evaluate.quantization is None else quantized(model, int(evaluate.quantization[0]), built)


class LiveModel:
    """The engine's model as evaluators take it, within a token budget; they may write it in the folder ``scratch``."""

    def __init__(self, engine: Engine, evaluate: Evaluate, budget: Budget, scratch: Path | None = None) -> None:
        self.engine = engine
        self._evaluate = evaluate
        self._budget = budget
        self._scratch = scratch
        self.contents: Mapping[str, Mapping[str, str]] = {}
        """By reference and name, a digest of each checkpoint's tensors."""
        self._scored: tuple[Any, Any] = (None, None)

    @property
    def loaded(self) -> LoadedModel:
        """What evaluators are given. A stack of another depth is another model, and so is its quantised double."""
        engine = self.engine
        if self._scored[0] is not engine.views:
            self._scored = engine.views, scored_model(engine.model, self._evaluate, lambda: engine.built)
        return LoadedModel(self._scored[1], engine.tokenizer, engine.save, self._budget, self._scratch)
