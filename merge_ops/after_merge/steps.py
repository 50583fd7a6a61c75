"""All steps after the merge, in their order. A search's live model and a merge to disk take them by this code."""

from mergesearch.merge_ops.after_merge.merged_model import MergedModel
from mergesearch.merge_ops.after_merge.recovery.recoverer import Recoverer
from mergesearch.merge_ops.after_merge.repair import Repairer
from mergesearch.merge_ops.assembly.merger import Merger
from mergesearch.merge_ops.live.built import Builder


class StepsAfterMerge:
    """The steps that recipes name, with what is kept for all candidates of a run.

    Args:
        merger: the open checkpoints.
        builder: makes models, instead of transformers.

    Attributes:
        recoverer: what trains models after the merge.
    """

    def __init__(self, merger: Merger, builder: Builder | None = None) -> None:
        self._repairer = Repairer(merger, builder)
        self.recoverer = Recoverer(merger)

    def take(self, merged: MergedModel) -> None:
        """Takes the steps of the merged model's recipe. Its tensors are changed in place.

        Raises:
            UserError: a step is not possible.
        """
        recipe = merged.assembly.recipe
        if recipe.repair:
            self._repairer.repair(merged, recipe.repair)
        if recipe.recover:
            self.recoverer.recover(merged, recipe.recover)
