"""Checkpoints under one set of names, so that corresponding tensors have the same name in all of them.

Some files have a prefix that others lack (``bert.encoder...`` and ``encoder...``), and a checkpoint with tied
embeddings lacks the output embedding of an untied one. Both are found by names and shapes, whatever the architecture.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from torch import Tensor

from mergesearch.merge_ops.checkpoint.checkpoint import Checkpoint
from mergesearch.merge_ops.checkpoint.tensor_files import TensorInfo
from mergesearch.merge_ops.inputs.tensor_cache import same_bits
from mergesearch.merge_ops.recipe.layout import layer_of

COMPUTED_BUFFERS = re.compile(r"rotary_emb\.inv_freq$|position_ids$|masked_bias$")
"""Buffers in old files that models compute for themselves."""
OUTPUT_EMBEDDING = re.compile(r"(?:^|\.)(?:lm_head|embed_out|output_projection)\.weight$")
INPUT_EMBEDDING = re.compile(
    r"(?:^|\.)(?:embed_tokens|wte|word_embeddings|embed_in|shared|tok_embeddings|embeddings)\.weight$"
)


@dataclass(frozen=True)
class AlignedCheckpoint:
    """A checkpoint under the template's names. ``own_names`` maps each of them to the checkpoint's own name."""

    checkpoint: Checkpoint
    own_names: Mapping[str, str]

    @property
    def reference(self) -> str:
        """The checkpoint's reference."""
        return self.checkpoint.reference

    @cached_property
    def tensors(self) -> dict[str, TensorInfo]:
        """Every tensor by its aligned name, sorted by name."""
        return {name: self.checkpoint.tensors[own] for name, own in sorted(self.own_names.items())}

    @property
    def tied_heads(self) -> list[str]:
        """The output embeddings that the checkpoint does not store: its input embedding takes their place."""
        heads = [name for name in self.own_names if OUTPUT_EMBEDDING.search(name)]
        return [name for name in heads if not OUTPUT_EMBEDDING.search(self.own_names[name])]

    def tensor(self, name: str) -> Tensor:
        """Reads one tensor, given by its aligned name, to the CPU."""
        return self.checkpoint.tensor(self.own_names[name])


def align(checkpoints: Sequence[Checkpoint]) -> dict[str, AlignedCheckpoint]:
    """Returns the checkpoints by reference, under the names of the first one, which is the template."""
    template = list(checkpoints[0].tensors)
    aligned = [AlignedCheckpoint(c, _own_names(list(c.tensors), template)) for c in checkpoints]
    aligned = [_without_tied_copies(entry) for entry in aligned]
    for head in dict.fromkeys(name for entry in aligned for name in entry.own_names if OUTPUT_EMBEDDING.search(name)):
        aligned = [_with_head(entry, head) for entry in aligned]
    return {entry.reference: entry for entry in _without_computed_buffers(aligned)}


def _own_names(names: Sequence[str], template: Sequence[str]) -> dict[str, str]:
    """Returns the own name of each tensor by its name in the template: the same, with a prefix, or without one."""
    template_names = set(template)
    if sum(name in template_names for name in names) * 2 >= len(names):
        return {name: name for name in names}
    missing, superfluous = _common_prefix(names, template), _common_prefix(template, names)
    if missing:
        return {f"{missing}{name}" if f"{missing}{name}" in template_names else name: name for name in names}
    shortened = {name: name.removeprefix(superfluous) for name in names}
    return {short if short in template_names else name: name for name, short in shortened.items()}


def _common_prefix(short: Sequence[str], long: Sequence[str]) -> str:
    """Returns the prefix that most of the short names lack, or "" if they do not lack the same one."""
    short_names = set(short)
    prefixes = Counter(
        name[: dot.end()] for name in long for dot in re.finditer(r"\.", name) if name[dot.end() :] in short_names
    )
    prefix, count = prefixes.most_common(1)[0] if prefixes else ("", 0)
    return prefix if count * 2 >= min(len(short), len(long)) else ""


def _without_tied_copies(entry: AlignedCheckpoint) -> AlignedCheckpoint:
    """Leaves out an output embedding that equals the input embedding to which the config ties it.

    The two are one parameter of the live model, which can have one recipe only. transformers ties them only if they are
    equal.
    """
    source = _input_embedding(entry) if _ties_embeddings(entry.checkpoint, default=False) else None
    heads = [name for name in entry.own_names if OUTPUT_EMBEDDING.search(name)]
    copies = [name for name in heads if source and same_bits(entry.tensor(name), entry.tensor(source))]
    return replace(entry, own_names={name: own for name, own in entry.own_names.items() if name not in copies})


def _with_head(entry: AlignedCheckpoint, head: str) -> AlignedCheckpoint:
    """Adds an output embedding of another checkpoint to one with tied embeddings: it is the input embedding."""
    source = tied_source(entry)
    if head in entry.own_names or source is None:
        return entry
    return replace(entry, own_names={**entry.own_names, head: entry.own_names[source]})


def tied_source(entry: AlignedCheckpoint) -> str | None:
    """Returns the input embedding of a checkpoint with tied embeddings and no output embedding, else None."""
    # transformers ties embeddings unless the config says otherwise.
    is_tied = _ties_embeddings(entry.checkpoint, default=True)
    return None if any(map(OUTPUT_EMBEDDING.search, entry.own_names)) or not is_tied else _input_embedding(entry)


def _input_embedding(entry: AlignedCheckpoint) -> str | None:
    return next((name for name in entry.own_names if INPUT_EMBEDDING.search(name) and not layer_of(name)), None)


def _ties_embeddings(checkpoint: Checkpoint, default: bool) -> bool:
    """Returns ``tie_word_embeddings`` of the config, the default if it has none, and False without a config."""
    if not checkpoint.has_config:
        return False
    config = checkpoint.config
    sections = [config, *(value for value in config.values() if isinstance(value, dict))]
    return next((bool(s["tie_word_embeddings"]) for s in sections if "tie_word_embeddings" in s), default)


def _without_computed_buffers(entries: Sequence[AlignedCheckpoint]) -> list[AlignedCheckpoint]:
    """Leaves out buffers that models compute for themselves and that not every checkpoint has."""
    everywhere = set.intersection(*(set(entry.own_names) for entry in entries))
    return [
        replace(
            entry,
            own_names={
                name: own
                for name, own in entry.own_names.items()
                if name in everywhere or not COMPUTED_BUFFERS.search(name)
            },
        )
        for entry in entries
    ]
