"""What a run wrote into the folder of its model, so that it can be told later whether the model is still that."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from mergesearch.errors import UserError
from mergesearch.files import digest
from mergesearch.merge_ops.checkpoint.checkpoint import Checkpoint
from mergesearch.merge_ops.checkpoint.side_files import CARD
from mergesearch.search.study.run_folder import RunFolder

FILE = "model.json"
MODEL = "model"
"""The folder of a run's recommended model."""
REMEDY = "run the config again, which writes the model anew"


@dataclass(frozen=True)
class ModelFiles:
    """The files of a model.

    Attributes:
        trial: the number of the trial whose model it is.
        tensors: the SHA-256 of the tensors; see ``Checkpoint.digest``.
        weights: the names of the files of the tensors.
        others: the SHA-256 of each other file by its name, but of the card, which people may edit.
    """

    trial: int
    tensors: str
    weights: list[str]
    others: Mapping[str, str]

    @classmethod
    def of(cls, model: Path, trial: int) -> "ModelFiles":
        """Those of a folder, whose tensors are read."""
        names = sorted(file.relative_to(model).as_posix() for file in model.rglob("*") if file.is_file())
        checkpoint = Checkpoint(str(model))
        weights = sorted({file.path.relative_to(model).as_posix() for file in checkpoint.weights.file_of.values()})
        others = {name: digest(model / name) for name in names if name not in {*weights, CARD}}
        return cls(trial, checkpoint.digest(), weights, others)

    @property
    def names(self) -> list[str]:
        """The names of all files, sorted."""
        return sorted([CARD, *self.weights, *self.others])

    def check(self, model: Path) -> None:
        """Raises UserError where a file is missing, is a link, or is not what was written."""
        missing = [name for name in self.names if not (model / name).is_file() or (model / name).is_symlink()]
        if missing:
            raise UserError(f"{model / missing[0]}: is missing; {REMEDY}")
        for name, expected in self.others.items():
            if digest(model / name) != expected:
                raise UserError(f"{model / name}: is not what the run wrote; {REMEDY}")
        if Checkpoint(str(model)).digest() != self.tensors:
            raise UserError(f"{model}: its tensors are not those that the run wrote; {REMEDY}")

    def write(self, folder: RunFolder) -> None:
        """Writes the file of a run."""
        folder.write_json(FILE, asdict(self))

    @classmethod
    def read(cls, folder: RunFolder) -> "ModelFiles | None":
        """That of a run; None where it has none. Raises DamagedFileError."""
        return folder.read_json(FILE, ModelFiles, REMEDY)
