"""Writes the aligned copy of a model to a folder, or to a file."""

import shutil
from pathlib import Path

from mergesearch.errors import UserError
from mergesearch.files import atomic_path
from mergesearch.merge_ops.checkpoint.checkpoint import Checkpoint
from mergesearch.merge_ops.checkpoint.references import Alignment, parse_reference
from mergesearch.merge_ops.engine.engine import check_output
from mergesearch.merge_ops.engine.options import DEFAULTS, MergeOptions
from mergesearch.merge_ops.output.writer import new_parents_removed, written_checkpoint


def write_aligned(model: str, alignment: Alignment, out: Path, options: MergeOptions = DEFAULTS) -> None:
    """Writes a model whose entries are in the order that fits another model best. It computes the same.

    Args:
        model: the reference of the model.
        alignment: what it is to fit, and how.
        out: the folder of the result, which must not exist or be empty; or a ``.safetensors`` file without anything
            beside it.
        options: what is told on the way, and whether the result is read back.

    Raises:
        UserError: ``out`` is not empty, or the models cannot be aligned.
    """
    from mergesearch.merge_ops.alignment.aligned import aligned_copy

    check_output(out)
    if parse_reference(model).aligned:
        raise UserError(f"{model}: is aligned already")
    aligned = aligned_copy(model, alignment)
    for note in aligned.spec.notes:
        options.warn(note)
    options.say(
        f"{len(aligned.spec.groups)} groups of entries in the order of {alignment.to}; cosine of the weights: "
        f"{aligned.before:.4f} before, {aligned.after:.4f} after"
    )
    copy = Checkpoint(str(aligned.folder.path))
    if out.suffix == ".safetensors":
        _write_file(copy, out)
        return
    with written_checkpoint(out, copy.tensors, Checkpoint(model).weights.stem, options.verify) as writer:
        for name, target in writer.tensors():
            target.copy_(copy.tensor(name))
        writer.copy_side_files(copy.path)


def _write_file(copy: Checkpoint, out: Path) -> None:
    (file,) = {file.path for file in copy.weights.file_of.values()}
    with new_parents_removed(out), atomic_path(out) as temporary:
        shutil.copyfile(file, temporary)
