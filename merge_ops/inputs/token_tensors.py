"""Which tensors have a row for each token, and whether they can be brought into another vocabulary."""

from collections.abc import Mapping

from mergesearch.errors import UserError, listed
from mergesearch.merge_ops.checkpoint.architecture import architecture, architecture_of
from mergesearch.merge_ops.checkpoint.config_sections import with_one_token_more
from mergesearch.merge_ops.inputs.aligned_names import AlignedCheckpoint
from mergesearch.merge_ops.inputs.guessed_names import is_embedding


def check_widths(inputs: Mapping[str, AlignedCheckpoint], names: frozenset[str]) -> None:
    """Raises UserError if the rows of an embedding have other shapes in other models."""
    for name in sorted(names):
        shapes = {r: list(entry.tensors[name].shape[1:]) for r, entry in inputs.items() if name in entry.tensors}
        owners = {str(shape): reference for reference, shape in reversed(shapes.items())}
        if len(owners) > 1:
            found = " and ".join(f"{shape} in {reference}" for shape, reference in reversed(owners.items()))
            raise UserError(f"tokenizer: {name}: found rows of {found}, expected rows of one shape")


def check_others(template: AlignedCheckpoint, names: frozenset[str]) -> None:
    """Raises UserError if tensors that are no embeddings have an entry for each token, too, such as a bias of logits.

    They are the tensors that transformers makes larger in a model with one more token.
    """
    known = architecture(template.checkpoint)
    larger = architecture_of(with_one_token_more(template.checkpoint.config)) if known else None
    if known is None or larger is None:
        return
    live = known.live_names(template.own_names.values())
    grown = {name for name, shape in known.shapes.items() if larger.shapes.get(name, shape) != shape}
    others = [name for name, own in template.own_names.items() if live[own].name in grown and name not in names]
    if others:
        raise UserError(
            f"tokenizer: {template.reference}: {listed(others)} has an entry for each token, too, which cannot follow "
            "the tokens to other rows"
        )


def row_count(entry: AlignedCheckpoint, names: frozenset[str]) -> int:
    counts = [entry.tensors[name].shape[0] for name in names if name in entry.tensors]
    if not counts:
        raise UserError(f"tokenizer: {entry.reference} has none of the embeddings {listed(names)}")
    return min(counts)


def embedding_names(template: AlignedCheckpoint) -> frozenset[str]:
    """Returns the names of the input and output embeddings and their biases.

    They are found in transformers' model of the template, and by their names. Raises UserError if there are none.
    """
    by_name = filter(is_embedding, template.tensors)
    names = frozenset([*_names_in_model(template), *by_name])
    if not names:
        raise UserError(f"tokenizer: {template.reference}: found no embeddings of tokens")
    return names


def _names_in_model(template: AlignedCheckpoint) -> list[str]:
    """Returns the names of the parameters in the input and output embeddings of transformers' model."""
    known = architecture(template.checkpoint)
    if known is None:
        return []
    live_names = known.live_names(template.checkpoint.tensors)
    in_model = [name for name, own in template.own_names.items() if live_names[own].name in known.embeddings]
    return [name for name in in_model if live_names[template.own_names[name]].loaded]
