"""Models that are the same tensor by tensor, under other paths: a search should have each of them once."""

from collections.abc import Iterator, Sequence
from itertools import combinations

from mergesearch.merge_ops.inputs.aligned_names import AlignedCheckpoint
from mergesearch.merge_ops.inputs.tensor_cache import same_bits


def equal_model_warnings(models: Sequence[AlignedCheckpoint]) -> list[str]:
    """Says which models have equal tensors, one line for each pair.

    Those whose sampled bytes differ are told apart without reading them; the tensors of the others are read up to the
    first that differs.
    """
    return [
        f"{one.reference} and {two.reference} are the same tensor by tensor; leave one of them out: a merge of both is "
        "a merge of one"
        for one, two in _equal_pairs(models)
    ]


def _equal_pairs(models: Sequence[AlignedCheckpoint]) -> Iterator[tuple[AlignedCheckpoint, AlignedCheckpoint]]:
    samples = {model.reference: _samples(model) for model in models}
    copies: set[str] = set()
    for one, two in combinations(models, 2):
        if {one.reference, two.reference} & copies or one.tensors != two.tensors:
            continue
        known = [found for found in (samples[one.reference], samples[two.reference]) if found is not None]
        if len(known) == 2 and known[0] != known[1]:
            continue
        if all(same_bits(one.tensor(name), two.tensor(name)) for name in one.tensors):
            copies.add(two.reference)
            yield one, two


def _samples(model: AlignedCheckpoint) -> list[bytes] | None:
    """Some bytes of each tensor; None for a model with an adapter, whose tensors are not in its files."""
    if model.checkpoint.has_adapter:
        return None
    samples = model.checkpoint.samples()
    return [samples[model.own_names[name]] for name in model.tensors]
