"""Which file of a checkpoint has which tensor: the files that transformers and diffusers would read, and no others.

A folder may have old shards beside the new ones, variants, and the same weights in other formats. As in transformers,
``model.safetensors`` comes before an index of shards. An index is obeyed: the tensors that it names are the model's,
each from the shard that it names.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

from mergesearch.errors import UserError, listed
from mergesearch.merge_ops.checkpoint.side_files import check_link
from mergesearch.merge_ops.checkpoint.tensor_files import TensorFile
from mergesearch.reading import read_json_object
from mergesearch.text import quoted

STEMS = ("model", "diffusion_pytorch_model")
"""The names of weights without the ending, in transformers and in diffusers."""
SUFFIX, INDEX_SUFFIX = ".safetensors", ".safetensors.index.json"
SINGLE, INDEX = f"{STEMS[0]}{SUFFIX}", f"{STEMS[0]}{INDEX_SUFFIX}"
USUAL_NAMES = tuple(stem + suffix for stem in STEMS for suffix in (SUFFIX, INDEX_SUFFIX))
"""The files that are looked for, in this order."""
NAMED_IN_CONFIG = "transformers_weights"
"""The key of config.json that names another file than these."""
SHARD = re.compile(r"-\d+-of-\d+\.safetensors$")
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


@dataclass(frozen=True)
class WeightFiles:
    """The files of a checkpoint's weights.

    Attributes:
        path: the single file, or the index of shards.
        weight_map: the name of each tensor's file, if there is an index.
    """

    path: Path
    weight_map: Mapping[str, str] | None = None

    @cached_property
    def file_of(self) -> dict[str, TensorFile]:
        """The file of each tensor, by the tensor's name. Raises UserError if a file does not have its tensors."""
        if self.weight_map is None:
            return dict.fromkeys(self._files[self.path.name].stored_dtypes, self._files[self.path.name])
        self._check(self.weight_map)
        return {name: self._files[shard] for name, shard in self.weight_map.items()}

    @property
    def stem(self) -> str:
        """The name of the file or index without the ending, by which a library finds it; or ``model``."""
        stem = self.path.name.removesuffix(INDEX_SUFFIX).removesuffix(SUFFIX)
        return stem if stem in STEMS else STEMS[0]

    @property
    def is_read_alike(self) -> bool:
        """Whether transformers finds the file by itself, and reads the same tensors from it."""
        if self.path.name not in (SINGLE, INDEX):
            return False
        has_others = sum(len(file.stored_dtypes) for file in self._files.values()) > len(self.file_of)
        return not has_others and (self.weight_map is None or "metadata" in read_json_object(self.path))

    @cached_property
    def _files(self) -> dict[str, TensorFile]:
        names = sorted(set(self.weight_map.values())) if self.weight_map else [self.path.name]
        return {name: TensorFile(self.path.parent / name) for name in names}

    def _check(self, weight_map: Mapping[str, str]) -> None:
        missing = [name for name, shard in weight_map.items() if name not in self._files[shard].stored_dtypes]
        if missing:
            name = min(missing)
            others = [shard for shard, file in self._files.items() if name in file.stored_dtypes]
            where = f"; found it in {listed(others)}" if others else ""
            more = f" (and {len(missing) - 1} more tensors like that)" if len(missing) > 1 else ""
            raise UserError(
                f"{self.path}: names the tensor {name} in {weight_map[name]}, which does not have it{where}{more}"
            )


def find_weights(path: Path) -> WeightFiles:
    """Returns the files of the weights in a folder, or the file that ``path`` is.

    Raises:
        UserError: there are none, there are several and nothing says which, or the index is damaged.
    """
    check_link(path)
    if not path.is_dir():
        if not path.is_file():
            raise UserError(f"{path}: is neither a file nor a folder")
        return WeightFiles(path)
    named = _named_in_config(path)
    for name in [named] if named else USUAL_NAMES:
        if (path / name).is_file():
            return WeightFiles(path / name, _weight_map(path / name) if name.endswith(INDEX_SUFFIX) else None)
    if named:
        raise UserError(f"{path / 'config.json'}: {NAMED_IN_CONFIG}: there is no file {quoted(named)}")
    files = sorted(path.glob(f"*{SUFFIX}"))
    for file in [*files, path / INDEX]:
        check_link(file)
    if len(files) != 1 or SHARD.search(files[0].name):
        raise UserError(_without_weights(path, [file.name for file in files]))
    return WeightFiles(files[0])


def _named_in_config(folder: Path) -> str | None:
    """Returns the name in config.json, if it has one. Whatever else is wrong with the config is not told here."""
    try:
        name = read_json_object(folder / "config.json").get(NAMED_IN_CONFIG)
    except UserError:
        return None
    if name is not None and not (isinstance(name, str) and _is_inside(name)):
        raise UserError(
            f"{folder / 'config.json'}: {NAMED_IN_CONFIG}: found {quoted(name)}, expected a file in this folder"
        )
    return name


def _weight_map(index: Path) -> dict[str, str]:
    """Returns the shard of each tensor. Raises UserError if the index is damaged, or shards do not exist."""
    weight_map = read_json_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        found = "an empty weight_map" if weight_map == {} else f"the weight_map {quoted(weight_map, 60)}"
        raise UserError(f"{index}: is not an index of shards: found {found}, expected the shard of each tensor")
    for name, shard in weight_map.items():
        if not isinstance(shard, str) or not _is_inside(shard):
            raise UserError(
                f"{index}: is not an index of shards: found {quoted(shard, 60)} for {name}, "
                "expected the name of a file in this folder"
            )
    shards = sorted(set(weight_map.values()))
    for shard in shards:
        check_link(index.parent / shard)
    missing = [shard for shard in shards if not (index.parent / shard).is_file()]
    if missing:
        raise UserError(f"{index}: names shards that do not exist: {listed(missing)}")
    return weight_map


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return bool(name) and not path.is_absolute() and ".." not in path.parts and "\0" not in name


def _without_weights(folder: Path, files: Sequence[str]) -> str:
    """Returns the message about a folder whose weights are not found, with what to do."""
    names = [entry.name for entry in folder.iterdir()]
    pickles = [name for name in names if name.endswith(PICKLES)]
    folders = [entry.name for entry in folder.iterdir() if entry.is_dir() and any(entry.glob(f"*{SUFFIX}"))]
    if any(map(SHARD.search, files)):
        what = f"; without {INDEX}, nothing says which of these shards are the model's"
    elif files:
        what = f"; give the path of one of the files, or rename it to {SINGLE}"
    elif pickles:
        what = (
            f"; {listed(pickles)} has pickles, which may run code and are never read: convert it with transformers, "
            "AutoModel.from_pretrained(FOLDER).save_pretrained(NEW)"
        )
    elif folders:
        what = f"; there are weights in {listed(folders)}: give one of these folders"
    else:
        what = ""
    return f"{folder}: expected {SINGLE} or {INDEX}, found: {listed(names) or 'nothing'}{what}"
