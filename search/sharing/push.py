"""Uploads a model of a finished run to the Hugging Face Hub."""

import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mergesearch.errors import UserError, in_words
from mergesearch.merge_ops.checkpoint.references import HUB_NAME
from mergesearch.merge_ops.checkpoint.side_files import CARD
from mergesearch.merge_ops.engine.documents import merge_file
from mergesearch.merge_ops.output.card import OWN_NAME
from mergesearch.merge_ops.output.folder import RECIPE, RECOVERY
from mergesearch.say import Say, silent
from mergesearch.search.across.finalists import Finalists
from mergesearch.search.config import Config
from mergesearch.search.report.hub_card import write_hub_card
from mergesearch.search.study.model_files import MODEL, ModelFiles
from mergesearch.search.study.run_folder import CONFIG, RunFolder
from mergesearch.search.verdict.result import Verdict, held_verdict

if TYPE_CHECKING:
    from huggingface_hub import HfApi

LOGIN = (
    "log in with `hf auth login`, or set HF_TOKEN to a token that may write (https://huggingface.co/settings/tokens)"
)
REASONS = {
    401: f"the Hub does not know who you are; {LOGIN}",
    403: f"your token may not write there; {LOGIN}",
    409: "the repository was changed at the same time; run the command again",
}


@dataclass(frozen=True)
class Upload:
    """A model that is ready to be uploaded: its files by their names in the repository, and its card."""

    folder: Path
    names: Sequence[str]
    card: str

    @property
    def sizes(self) -> dict[str, int]:
        """The size of each file in bytes."""
        return {name: (self.folder / name).stat().st_size for name in self.names}


@contextmanager
def prepared(run: Path, repository: str, what: str = "recommended", say: Say = silent) -> Iterator[Upload]:
    """A model of a run, ready to be uploaded. Its files are those that the run wrote, or are made within the context.

    The file with the recipe, which has the paths of this machine, is left out; the card has the recipe without them.

    Args:
        run: the run's folder.
        repository: the repository, as ``OWNER/NAME`` or ``NAME``.
        what: ``recommended``, or ``best``: the best candidate of the search.
        say: hears of what takes time.

    Raises:
        UserError: the run has no verdict, its model is not what it wrote, or the repository's name is not valid.
    """
    if not HUB_NAME.fullmatch(repository) or "--" in repository or ".." in repository:
        raise UserError(f"{repository}: is no name of a repository; expected OWNER/NAME, or NAME for one of your own")
    with model_of(RunFolder(run), held_verdict(run), what, say) as (model, names):
        card = (model / CARD).read_text(encoding="utf-8").replace(OWN_NAME, repository)
        yield Upload(model, [name for name in names if name not in (RECIPE, RECOVERY)], card)


@contextmanager
def model_of(folder: RunFolder, verdict: Verdict, what: str, say: Say) -> Iterator[tuple[Path, Sequence[str]]]:
    """The folder of a run's ``recommended`` or ``best`` model, and the names of its files.

    Raises UserError where the model is not what the run wrote. One that it did not write is merged within the context.
    """
    row = verdict.winner if what == "best" else verdict.recommended_row
    model, files = folder.path / MODEL, ModelFiles.read(folder)
    if files is not None and files.trial == row.trial and model.is_dir():
        say(f"checking {model}")
        files.check(model)
        yield model, files.names
        return
    with tempfile.TemporaryDirectory(prefix=".push.", dir=folder.path) as temporary:
        model = Path(temporary) / MODEL
        say(f"merging {row.name}, of which the run wrote no model")
        merge_file(folder.path / f"{what}.yml", model)
        write_hub_card(model, Finalists.read(folder.path), verdict, row, Config.read(folder.path / CONFIG))
        yield model, ModelFiles.of(model, row.trial).names


def push(upload: Upload, repository: str, public: bool = False, revision: str | None = None) -> str:
    """Uploads the files in one commit, and returns the address of it.

    The repository is made where there is none: private unless ``public``. An upload that was cut off goes on where it
    ended when it is begun again.

    Args:
        upload: the files.
        repository: the repository, as ``OWNER/NAME`` or ``NAME``.
        public: whether everybody may see it.
        revision: the branch, which is made where there is none; by default ``main``.

    Raises:
        UserError: the Hub refused, cannot be reached, or has a public repository of that name.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.utils.tqdm import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()
    try:
        return _push(HfApi(library_name="mergesearch"), upload, repository, public, revision)
    except UserError:
        raise
    except Exception as error:  # of the network, of which each library has its own
        refused = next((each for each in _causes(error) if isinstance(each, HfHubHTTPError)), None)
        if refused is None:
            raise UserError(f"{repository}: cannot be uploaded: {in_words([*_causes(error)][-1])}") from error
        status = refused.response.status_code
        raise UserError(f"{repository}: {REASONS.get(status, in_words(refused))} (HTTP {status})") from error


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yields an error, and those that it was raised from."""
    while error is not None:
        yield error
        error = error.__cause__


def _push(api: "HfApi", upload: Upload, repository: str, public: bool, revision: str | None) -> str:
    from huggingface_hub import CommitOperationAdd

    name = api.create_repo(repository, private=not public, exist_ok=True).repo_id
    if not public and not api.model_info(name).private:
        raise UserError(f"{name}: is a public repository; give --public to upload to it")
    if revision is not None:
        api.create_branch(name, branch=revision, exist_ok=True)
    files = {each: upload.folder / each for each in upload.names}
    operations = [CommitOperationAdd(each, file) for each, file in files.items() if each != CARD]
    operations.append(CommitOperationAdd(CARD, upload.card.encode()))
    message = f"Upload {upload.folder.parent.name} with mergesearch"
    return str(api.create_commit(name, operations, commit_message=message, revision=revision).commit_url)
