"""A model's folder as one GGUF file."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mergesearch.errors import UserError, located
from mergesearch.files import atomic_path
from mergesearch.merge_ops.checkpoint.checkpoint import Checkpoint
from mergesearch.merge_ops.output.gguf.architectures import Model
from mergesearch.merge_ops.output.gguf.vocabulary import Vocabulary
from mergesearch.reading import read_json_object

if TYPE_CHECKING:
    import numpy as np
    from gguf import GGMLQuantizationType, GGUFWriter

TYPES = {"f32": "ALL_F32", "f16": "MOSTLY_F16", "bf16": "MOSTLY_BF16", "q8_0": "MOSTLY_Q8_0"}
"""The types of matrices, with gguf's name of such a file."""
BLOCK = 32
"""How many numbers of a row share a scale in q8_0."""
EMBEDDINGS, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def write_gguf(folder: Path, out: Path, kind: str = "f16", name: str = "") -> None:
    """Writes the model in a folder as a GGUF file, tensor by tensor.

    Matrices get the type ``kind``, one of TYPES; vectors are float32. In q8_0, matrices whose rows are no multiple of
    32 are float16.

    Args:
        folder: a folder as transformers loads it.
        out: the file, which must not exist.
        kind: the type of matrices.
        name: what the model is called; by default as the folder.

    Raises:
        UserError: the file exists, the package ``gguf`` is missing, or llama.cpp would not compute what transformers
            does, as far as is known.
    """
    if out.exists():
        raise UserError(f"{out}: already exists; choose another path or remove it")
    try:
        import gguf
    except ImportError:
        raise UserError("gguf: not installed; pip install 'mergesearch[gguf]'") from None
    with located(str(folder / "config.json")):
        model = Model.of(read_json_object(folder / "config.json"))
    tensors = _Tensors(Checkpoint(str(folder)), model, kind)
    with atomic_path(out) as temporary:
        writer = gguf.GGUFWriter(temporary, model.family.name)
        writer.add_name(name or folder.name)
        writer.add_file_type(gguf.LlamaFileType[TYPES[kind]])
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        size = tensors.checkpoint.tensors[EMBEDDINGS].shape[0]
        model.add_to(writer, size)
        Vocabulary(folder, size).add_to(writer)
        try:
            tensors.write(writer)
        finally:
            writer.close()


@dataclass(frozen=True)
class _Tensors:
    """The tensors of a checkpoint, as a file has them."""

    checkpoint: Checkpoint
    model: Model
    kind: str

    def write(self, writer: "GGUFWriter") -> None:
        """Writes the file, with the memory of one tensor."""
        from gguf.quants import quant_shape_to_byte_shape

        names = dict(self._names())
        for name, source in names.items():
            shape = self._shape(source)
            kind = self._kind(shape)
            code = _code(kind)
            stored = quant_shape_to_byte_shape(shape, code) if kind in ("bf16", "q8_0") else shape
            writer.add_tensor_info(name, stored, *_numpy(kind, stored), raw_dtype=code)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for source in names.values():
            tensor = self._tensor(source)
            writer.write_tensor_data(self._converted(source or "rope_freqs", tensor))

    def _names(self) -> Iterator[tuple[str, str]]:
        """Yields the name of each tensor in the file, and that in the checkpoint; "" for factors of the rotation."""
        import gguf

        names = gguf.get_tensor_name_map(_architecture(self.model.family.name), self.model.layers)
        if self.model.rope_factors is not None:
            yield "rope_freqs.weight", ""
        for source in self.checkpoint.tensors:
            if source.endswith("rotary_emb.inv_freq") or (source == HEAD and self.model.is_tied):
                continue
            name = names.get_name(source, try_suffixes=(".weight", ".bias"))
            if name is None:
                raise UserError(f"{self._where(source)} has no place in a GGUF file of this architecture")
            yield name, source

    def _where(self, source: str) -> str:
        return f"{self.checkpoint.reference}: {source}"

    def _tensor(self, source: str) -> Tensor:
        if not source:
            assert self.model.rope_factors is not None
            return self.model.rope_factors
        return self.model.reordered(source, self.checkpoint.tensor(source))

    def _shape(self, source: str) -> tuple[int, ...]:
        return tuple(self.checkpoint.tensors[source].shape) if source else (self.model.head_size // 2,)

    def _kind(self, shape: tuple[int, ...]) -> str:
        if len(shape) == 1:
            return "f32"
        return "f16" if self.kind == "q8_0" and shape[-1] % BLOCK else self.kind

    def _converted(self, source: str, tensor: Tensor) -> "np.ndarray[Any, Any]":
        from gguf.quants import quantize

        kind = self._kind(tuple(tensor.shape))
        if not tensor.is_floating_point():
            raise UserError(f"{self._where(source)} is of {tensor.dtype}, expected numbers in floating point")
        if kind == "f16" and float(tensor.abs().max()) > torch.finfo(torch.float16).max:
            raise UserError(f"{self._where(source)} has values beyond the range of f16; choose another type")
        array: np.ndarray[Any, Any] = tensor.float().contiguous().numpy()
        converted: np.ndarray[Any, Any] = array if kind == "f32" else quantize(array, _code(kind))
        return converted


def _code(kind: str) -> "GGMLQuantizationType":
    import gguf

    return gguf.GGMLQuantizationType[kind.upper()]


def _numpy(kind: str, stored: tuple[int, ...]) -> tuple["np.dtype[Any]", int]:
    """The dtype in which gguf takes a type, and the size of so many in bytes."""
    import numpy as np

    dtype: np.dtype[Any] = np.dtype({"f32": np.float32, "f16": np.float16}.get(kind, np.uint8))
    return dtype, int(np.prod(stored)) * dtype.itemsize


def _architecture(name: str) -> Any:
    import gguf

    return next(each for each, own in gguf.MODEL_ARCH_NAMES.items() if own == name)
