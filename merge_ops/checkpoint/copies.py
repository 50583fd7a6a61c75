"""Plain copies of checkpoints with other values in some tensors, which take the place of the originals in a merge.

A copy is a folder like any other checkpoint's. ``named_paths`` of ``Checkpoint`` give it the reference of the original.
"""

import json
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterable, Mapping
from pathlib import Path

from torch import Tensor

from mergesearch.merge_ops.checkpoint.checkpoint import Checkpoint
from mergesearch.merge_ops.checkpoint.config_sections import Json
from mergesearch.merge_ops.checkpoint.side_files import copy_files, side_files
from mergesearch.merge_ops.checkpoint.weight_files import INDEX, NAMED_IN_CONFIG

METADATA = {"format": "pt"}


class CopiesFolder:
    """A folder for copies, among the temporary files. It is removed when nobody holds this object any more."""

    def __init__(self, kind: str) -> None:
        self.path = Path(tempfile.mkdtemp(prefix=f"mergesearch-{kind}."))
        weakref.finalize(self, _remove, self.path, os.getpid())


def _remove(path: Path, owner: int) -> None:
    if os.getpid() == owner:  # and no child that was forked from it
        shutil.rmtree(path, ignore_errors=True)


class CopyWriter:
    """Writes a copy of a checkpoint to a new folder. ``finish`` makes it complete."""

    def __init__(self, checkpoint: Checkpoint, folder: Path) -> None:
        self._checkpoint = checkpoint
        self._folder = folder
        self._weight_map: dict[str, str] = {}
        self._files = 0
        folder.mkdir(parents=True, exist_ok=True)

    def write(self, tensors: Mapping[str, Tensor]) -> None:
        """Writes tensors by name to a file of their own."""
        from safetensors.torch import save_file

        file = f"changed-{self._files}.safetensors"
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, self._folder / file, METADATA)
        self._files += 1
        self._weight_map |= dict.fromkeys(tensors, file)

    def finish(self, kept: Iterable[str], config: Json | None) -> None:
        """Writes all but the tensors.

        Args:
            kept: the names of tensors that stay as they are in their files, to which the copy has links.
            config: what ``config.json`` says. None: there is none.
        """
        weight_map = self._weight_map | self._linked(kept)
        index = json.dumps({"metadata": {}, "weight_map": weight_map})
        (self._folder / INDEX).write_text(index, encoding="utf-8")
        checkpoint = self._checkpoint
        for source in dict.fromkeys(filter(None, (checkpoint.folder, checkpoint.tokenizer_folder))):
            copy_files(source, side_files(source), self._folder)
        if config is None:
            return
        plain = {key: value for key, value in config.items() if key != NAMED_IN_CONFIG}
        (self._folder / "config.json").write_text(json.dumps(plain, indent=2), encoding="utf-8")

    def _linked(self, kept: Iterable[str]) -> dict[str, str]:
        """Links to the files of tensors; returns the name of each tensor's link."""
        files = {name: self._checkpoint.weights.file_of[name].path for name in kept}
        links = {path: f"kept-{number}.safetensors" for number, path in enumerate(dict.fromkeys(files.values()))}
        for path, link in links.items():
            (self._folder / link).symlink_to(path.resolve())
        return {name: links[path] for name, path in files.items()}
