"""Names of tensors where transformers does not know the model: single files, and architectures of other libraries."""

import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

from mergesearch.merge_ops.checkpoint.checkpoint import Checkpoint
from mergesearch.merge_ops.checkpoint.config_sections import sections
from mergesearch.merge_ops.recipe.layout import layer_of

COMPUTED_BUFFERS = re.compile(r"rotary_emb\.inv_freq$|(?:^|\.)position_ids$|(?:^|\.)masked_bias$")
"""Buffers in old files that models compute for themselves."""
OUTPUT_EMBEDDING = re.compile(r"(?:^|\.)(?:lm_head|embed_out|output_projection)\.weight$")
INPUT_EMBEDDING = re.compile(
    r"(?:^|\.)(?:embed_tokens|wte|word_embeddings|embed_in|shared|tok_embeddings|embeddings)\.weight$"
)


@lru_cache(maxsize=1 << 14)
def is_embedding(name: str) -> bool:
    """Returns whether a tensor has a row for each token, by its name."""
    return layer_of(name) is None and bool(INPUT_EMBEDDING.search(name) or OUTPUT_EMBEDDING.search(name))


def names_in_template(names: Sequence[str], template: Sequence[str]) -> dict[str, str]:
    """Returns the template's name of each tensor by its own name: the same, with a prefix, or without one."""
    template_names = set(template)
    if sum(name in template_names for name in names) * 2 >= len(names):
        return {name: name for name in names}
    missing, superfluous = _common_prefix(names, template), _common_prefix(template, names)
    if missing:
        return {name: f"{missing}{name}" if f"{missing}{name}" in template_names else name for name in names}
    shortened = {name: name.removeprefix(superfluous) for name in names}
    return {name: short if short in template_names else name for name, short in shortened.items()}


def _common_prefix(short: Sequence[str], long: Sequence[str]) -> str:
    """Returns the prefix that most of the short names lack, or "" if they do not lack the same one."""
    short_names = set(short)
    prefixes = Counter(
        name[: dot.end()] for name in long for dot in re.finditer(r"\.", name) if name[dot.end() :] in short_names
    )
    prefix, count = prefixes.most_common(1)[0] if prefixes else ("", 0)
    return prefix if count * 2 >= min(len(short), len(long)) else ""


def guessed_ties(checkpoint: Checkpoint, names: Sequence[str], heads: Sequence[str]) -> list[tuple[str, ...]]:
    """Returns the group of the input embedding and of ``heads``, unless the config says that they are not tied.

    Args:
        checkpoint: the checkpoint. Without a config it has no ties.
        names: the template's names of its tensors.
        heads: the output embeddings of all checkpoints.
    """
    embedding = next((name for name in names if INPUT_EMBEDDING.search(name) and not layer_of(name)), None)
    return [(embedding, *heads)] if embedding and heads and _ties_embeddings(checkpoint) else []


def _ties_embeddings(checkpoint: Checkpoint) -> bool:
    if not checkpoint.has_config:
        return False
    # transformers ties embeddings unless the config says otherwise.
    return next(
        (bool(s["tie_word_embeddings"]) for s in sections(checkpoint.config) if "tie_word_embeddings" in s), True
    )
