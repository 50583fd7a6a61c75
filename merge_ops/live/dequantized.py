"""Quantized checkpoints as plain ones: transformers loads and dequantizes them, and their floats are kept on disk."""

import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from mergesearch.errors import UserError, in_words, listed
from mergesearch.merge_ops.checkpoint.architecture import model_class
from mergesearch.merge_ops.checkpoint.checkpoint import Checkpoint
from mergesearch.merge_ops.checkpoint.copies import CopiesFolder, CopyWriter
from mergesearch.merge_ops.checkpoint.quantization import quantization_method, signs_of_quantization
from mergesearch.merge_ops.checkpoint.references import parse_reference
from mergesearch.merge_ops.live.live import no_progress_bars

SCALE = re.compile(r"_scales?(?:_\w+)?$|_zero_point$")
"""Names of tensors that tell what codes mean."""
_FOLDERS: list[CopiesFolder] = []
"""What this process has dequantized; removed at its end."""


def dequantized_paths(references: Sequence[str], named_paths: Mapping[str, Path] | None) -> dict[str, Path]:
    """Returns ``named_paths`` with a plain copy in place of each quantized model.

    A copy is made once in a process, in the folder for temporary files.

    Raises:
        UserError: transformers cannot dequantize a model on this machine.
    """
    paths = dict(named_paths or {})
    for reference in references:
        model = Checkpoint(reference, named_paths).without_adapter
        if signs_of_quantization(model):
            paths[parse_reference(reference).model] = _dequantized(model.reference, model.path)
    return paths


@cache
def _dequantized(reference: str, path: Path) -> Path:
    checkpoint = Checkpoint(reference, {reference: path})
    method = quantization_method(checkpoint)
    if method is None:
        raise UserError(
            f"{reference}: dequantize: true: config.json has no quantization_config, which tells how; give the model "
            "before its quantization"
        )
    try:
        model = _loaded(checkpoint, method)
    except Exception as error:  # whatever libraries lack or say
        raise UserError(
            f"{reference}: dequantize: true: transformers cannot dequantize {method} here: {in_words(error)}; give the "
            "model before its quantization"
        ) from None
    _FOLDERS.append(CopiesFolder("dequantized"))
    _write(model, checkpoint, _FOLDERS[-1].path)
    return _FOLDERS[-1].path


def _loaded(checkpoint: Checkpoint, method: str) -> Any:
    """Returns the model with floats for weights. Some methods dequantize while loading, the others afterwards."""
    from transformers import FineGrainedFP8Config, Mxfp4Config
    from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING

    if method not in ("bitsandbytes", *AUTO_QUANTIZER_MAPPING):
        raise ValueError(f"it knows no method of this name, but {listed(AUTO_QUANTIZER_MAPPING)}")
    while_loading = {"fp8": FineGrainedFP8Config, "mxfp4": Mxfp4Config}
    kind = while_loading.get(method)
    options = {"quantization_config": kind(dequantize=True)} if kind else {"device_map": {"": "cpu"}}
    with no_progress_bars():
        loader = model_class(checkpoint.config)
        model, found = loader.from_pretrained(
            checkpoint.path, dtype="auto", trust_remote_code=False, output_loading_info=True, **options
        )
    unread = [*found["missing_keys"], *filter(SCALE.search, found["unexpected_keys"])]
    if unread:
        raise ValueError(f"it did not read {listed(sorted(unread))}")
    return model if kind else model.dequantize()


def _write(model: Any, checkpoint: Checkpoint, folder: Path) -> None:
    tied = getattr(model, "all_tied_weights_keys", {})
    writer = CopyWriter(checkpoint, folder)
    writer.write({name: tensor for name, tensor in model.state_dict().items() if name not in tied})
    config = {key: value for key, value in checkpoint.config.items() if key != "quantization_config"}
    writer.finish((), config)
