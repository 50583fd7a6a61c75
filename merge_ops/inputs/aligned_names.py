"""Checkpoints seen under one set of names, so that the same tensor has the same name in all of them.

Some files carry a prefix that others lack (``bert.encoder...`` and ``encoder...``), and a checkpoint with tied
embeddings lacks the output embedding that an untied one has. Both are found by names and shapes, not by architecture.
"""

import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from mergesearch.errors import UserError, listed
from mergesearch.merge_ops.checkpoint.checkpoint import Checkpoint
from mergesearch.merge_ops.checkpoint.tensor_files import TensorInfo
from mergesearch.merge_ops.inputs.memory import same_bits
from mergesearch.merge_ops.recipe.layout import layer_of
from mergesearch.merge_ops.recipe.resolution import TensorRecipe

COMPUTED = re.compile(r"rotary_emb\.inv_freq$|position_ids$|masked_bias$")
"""Buffers that old files carry and models compute for themselves."""
OUTPUT_EMBEDDING = re.compile(r"(?:^|\.)(?:lm_head|embed_out|output_projection)\.weight$")
INPUT_EMBEDDING = re.compile(
    r"(?:^|\.)(?:embed_tokens|wte|word_embeddings|embed_in|shared|tok_embeddings|embeddings)\.weight$"
)


@dataclass
class Input:
    """A checkpoint under the template's names: ``own`` says what each is called in the checkpoint."""

    checkpoint: Checkpoint
    own: Mapping[str, str]

    @property
    def reference(self) -> str:
        return self.checkpoint.reference

    @cached_property
    def tensors(self) -> dict[str, TensorInfo]:
        """Every tensor, in the names' order."""
        return {name: self.checkpoint.tensors[own] for name, own in sorted(self.own.items())}

    @property
    def shown_heads(self) -> list[str]:
        """Output embeddings that it does not have, and shows its input embedding for."""
        heads = [name for name in self.own if OUTPUT_EMBEDDING.search(name)]
        return [name for name in heads if not OUTPUT_EMBEDDING.search(self.own[name])]

    def tensor(self, name: str) -> Tensor:
        return self.checkpoint.tensor(self.own[name])


def aligned(checkpoints: Sequence[Checkpoint]) -> dict[str, Input]:
    """The checkpoints by reference, all under the names of the first, which is the template."""
    template = list(checkpoints[0].tensors)
    inputs = {c.reference: Input(c, _renamed(list(c.tensors), template)) for c in checkpoints}
    _drop_copies(inputs)
    _untie(inputs)
    _drop_computed(inputs)
    return inputs


def _renamed(names: Sequence[str], template: Sequence[str]) -> dict[str, str]:
    """What each tensor is called in the template, by its own name: with a prefix more, with one less, or the same."""
    known = set(template)
    if sum(name in known for name in names) * 2 >= len(names):
        return {name: name for name in names}
    longer, shorter = _prefix(names, template), _prefix(template, names)
    if longer:
        return {f"{longer}{name}" if f"{longer}{name}" in known else name: name for name in names}
    return {name.removeprefix(shorter) if name.removeprefix(shorter) in known else name: name for name in names}


def _prefix(short: Sequence[str], long: Sequence[str]) -> str:
    """What most of the short names lack at their beginning; empty where it is not the same for most."""
    known = set(short)
    found = Counter(name[:dot] for name in long for dot in _dots(name) if name[dot:] in known)
    prefix, count = found.most_common(1)[0] if found else ("", 0)
    return prefix if count * 2 >= min(len(short), len(long)) else ""


def _dots(name: str) -> list[int]:
    return [match.end() for match in re.finditer(r"\.", name)]


def _drop_copies(inputs: Mapping[str, Input]) -> None:
    """Leaves out an output embedding that is stored beside the equal input embedding that it is tied to.

    The two are one parameter of the live model, which can have one recipe only. transformers ties none that differ.
    """
    for entry in inputs.values():
        source = _input_embedding(entry) if _is_said_tied(entry.checkpoint, unless_said=False) else None
        heads = [name for name in entry.own if OUTPUT_EMBEDDING.search(name)]
        copies = [name for name in heads if source and same_bits(entry.tensor(name), entry.tensor(source))]
        entry.own = {name: own for name, own in entry.own.items() if name not in copies}
        entry.__dict__.pop("tensors", None)


def _untie(inputs: Mapping[str, Input]) -> None:
    """Where some checkpoint has an output embedding, those with tied ones show it too: their input embedding."""
    heads = {name: i.tensors[name] for i in inputs.values() for name in i.own if OUTPUT_EMBEDDING.search(name)}
    for name in heads:
        for entry in inputs.values():
            source = tied_source(entry)
            if name not in entry.own and source:
                entry.own = {**entry.own, name: entry.own[source]}
                entry.__dict__.pop("tensors", None)


def tied_source(entry: Input) -> str | None:
    """The input embedding of a checkpoint without an output embedding, if its config says that the two are tied."""
    # transformers ties unless the config says otherwise.
    tied = _is_said_tied(entry.checkpoint, unless_said=True)
    return None if any(map(OUTPUT_EMBEDDING.search, entry.own)) or not tied else _input_embedding(entry)


def _input_embedding(entry: Input) -> str | None:
    return next((name for name in entry.own if INPUT_EMBEDDING.search(name) and not layer_of(name)), None)


def _is_said_tied(checkpoint: Checkpoint, unless_said: bool) -> bool:
    if checkpoint.folder is None or not (checkpoint.folder / "config.json").exists():
        return False
    config = checkpoint.config
    parts = [config, *(value for value in config.values() if isinstance(value, dict))]
    return next((bool(p["tie_word_embeddings"]) for p in parts if "tie_word_embeddings" in p), unless_said)


def _drop_computed(inputs: Mapping[str, Input]) -> None:
    """Leaves out buffers that not every checkpoint has and that models compute anyway."""
    everywhere = set.intersection(*(set(entry.own) for entry in inputs.values()))
    for entry in inputs.values():
        entry.own = {n: own for n, own in entry.own.items() if n in everywhere or not COMPUTED.search(n)}
        entry.__dict__.pop("tensors", None)


InfoOf = Callable[[str, str], TensorInfo | None]
Tensors = Mapping[str, Collection[str]]


def is_matched(part: TensorRecipe, info_of: InfoOf) -> bool:
    """Whether all that have a say have the tensor, and in one shape."""
    infos = [info_of(*entry) for entry in part.claims]
    return None not in infos and len({info.shape for info in infos if info}) == 1


def check_match(parts: Sequence[TensorRecipe], layouts: Tensors, info_of: InfoOf, layers: bool) -> None:
    """Raises UserError, which lists the tensors that only some inputs have, or that differ in shape.

    ``layers``: the result must have all of every input's layers, as it must have all that is outside them.
    """
    problems = [_described(part, info_of) for part in parts if not is_matched(part, info_of)]
    problems += _unused(parts, layouts, layers)
    if problems:
        raise UserError(
            f"the checkpoints differ in {listed(problems)}; `on_mismatch: base` in the recipe takes the base's tensors "
            "there, `on_mismatch: overlap` merges the corner that they share"
        )


def _described(part: TensorRecipe, info_of: InfoOf) -> str:
    found: dict[str, list[str]] = {}
    for reference, source in part.inputs:
        info = info_of(reference, source)
        found.setdefault(str(list(info.shape)) if info else "missing", []).append(reference)
    return f"{part.name} ({'; '.join(f'{shape} in {listed(owners)}' for shape, owners in found.items())})"


def _unused(parts: Sequence[TensorRecipe], layouts: Tensors, layers: bool) -> list[str]:
    made = {part.name for part in parts}
    used = dict.fromkeys(reference for part in parts for reference, _ in part.inputs)
    return [
        f"{name} (only in {reference})"
        for reference in used
        for name in layouts[reference]
        if name not in made and (layers or layer_of(name) is None)
    ]
