"""Where a checkpoint is: a local path, or the cache of the Hugging Face Hub, to which it is downloaded."""

from pathlib import Path

from mergesearch.copies import here
from mergesearch.errors import UserError, first_line, listed
from mergesearch.merge_ops.checkpoint.adapters.config import ADAPTER_CONFIG
from mergesearch.merge_ops.checkpoint.references import may_be_on_hub, split_revision
from mergesearch.merge_ops.checkpoint.side_files import CARD, SIDE_FILES, check_link
from mergesearch.merge_ops.checkpoint.weight_files import INDEX_SUFFIX, STEMS, SUFFIX
from mergesearch.text import as_line


def locate(reference: str) -> Path:
    """Returns the local path of a model or adapter. Downloads a name on the Hugging Face Hub to the Hub's cache.

    A path that exists is always meant as the path. Nothing else on the disk hides a name on the Hub, such as a folder
    that has the name of the owner.

    Raises:
        UserError: there is no such path, or the download failed.
    """
    try:
        path = Path(here(reference)).expanduser()
        exists = path.exists() or path.is_symlink()
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"{as_line(reference, 200)}: is not a path: {first_line(error)}") from None
    if exists:
        check_link(path)
        return path
    name, revision = split_revision(reference)
    name = name.removesuffix("/")
    if not may_be_on_hub(reference):
        local = f"; revisions are for the Hugging Face Hub, but {name} is a path" if Path(name).exists() else ""
        raise UserError(f"{reference}: there is no such checkpoint{local or _neighbors(path)}")
    return _download(reference, name, revision)


def _download(reference: str, name: str, revision: str | None) -> Path:
    try:
        try:
            return _snapshot(name, revision, CARD)
        except FileNotFoundError:  # without a network, a cache that has all but the card is as good
            return _snapshot(name, revision)
    except Exception as error:
        parent = Path(reference).parent
        local = _neighbors(Path(reference)) if parent.is_dir() and any(parent.iterdir()) else ""
        raise UserError(
            f"{reference}: there is no such folder{local}, and the Hugging Face Hub gave an error: {first_line(error)}"
        ) from None


def _snapshot(name: str, revision: str | None, *more: str) -> Path:
    """The folder of the Hub's cache with the files of a model, and ``more``, once they are there."""
    from huggingface_hub import snapshot_download

    indexes = [f"{stem}{INDEX_SUFFIX}" for stem in STEMS]
    patterns = [f"*{SUFFIX}", *indexes, ADAPTER_CONFIG, *SIDE_FILES, *more]
    return Path(snapshot_download(name, revision=revision, allow_patterns=patterns))


def _neighbors(path: Path) -> str:
    folder = path.parent
    if not folder.is_dir():
        return f", nor the folder {folder}"
    return f"; in {folder}: {listed(entry.name for entry in folder.iterdir()) or 'nothing'}"
