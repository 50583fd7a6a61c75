"""Recovery as a step after the merge. In a run its results are kept, so that each candidate is recovered once."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from pydantic import TypeAdapter
from torch import Tensor

from mergesearch.files import atomic_path, write_text
from mergesearch.merge_ops.after_merge.merged_model import MergedModel
from mergesearch.merge_ops.after_merge.recovery.record import RecoveryRecord
from mergesearch.merge_ops.after_merge.recovery.recover import recover
from mergesearch.merge_ops.after_merge.recovery.texts import digest_of, drawn_passages
from mergesearch.merge_ops.assembly.merger import Merger
from mergesearch.merge_ops.checkpoint.checkpoint import Checkpoint, tensors_digest
from mergesearch.merge_ops.recipe.recovery import Recovery
from mergesearch.reading import read_bytes

WEIGHTS, RECORD = "weights.safetensors", "record.json"


class Recoverer:
    """Recovers merged models of a merger's checkpoints.

    Attributes:
        folder: where results are kept. None: nowhere.
        record: that of the last model. None: there was none.
    """

    def __init__(self, merger: Merger) -> None:
        self._merger = merger
        self.folder: Path | None = None
        self.record: RecoveryRecord | None = None

    def recover(self, merged: MergedModel, settings: Recovery) -> None:
        """Recovers the merged model in place.

        Raises:
            UserError, FloatingPointError: as ``recover`` does.
        """
        names = merged.assembly.recipe.recovery_parents
        parents = {name: self._merger.checkpoints[name] for name in names}
        if self.folder is None:
            self.record = recover(merged.model, merged.tokenizer, parents, settings)
            return
        kept = self.folder / _key(merged, settings, parents)
        if not kept.is_dir():
            _keep(kept, recover(merged.model, merged.tokenizer, parents, settings), merged.views)
        self.record = _taken(kept, merged.views)


def _key(merged: MergedModel, settings: Recovery, parents: Mapping[str, Checkpoint]) -> str:
    """What the result depends on: the settings, the texts, the merged weights and the parents."""
    own = settings.model_dump(exclude={"data", "digest", "parents", "without"})
    texts = digest_of(drawn_passages(settings, list(parents)))
    start = tensors_digest((name, merged.views[name]) for name in sorted(merged.views))
    content = [own, texts, start, [parent.digest() for parent in parents.values()]]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]


def _keep(folder: Path, record: RecoveryRecord, views: Mapping[str, Tensor]) -> None:
    from safetensors.torch import save_file

    with atomic_path(folder) as temporary:
        temporary.mkdir()
        save_file({name: view.cpu().clone().contiguous() for name, view in views.items()}, temporary / WEIGHTS)
        write_text(temporary / RECORD, json.dumps(asdict(record)))


def _taken(folder: Path, views: Mapping[str, Tensor]) -> RecoveryRecord:
    checkpoint = Checkpoint(str(folder / WEIGHTS))
    for name, view in views.items():
        view.copy_(checkpoint.tensor(name))
    return TypeAdapter(RecoveryRecord).validate_json(read_bytes(folder / RECORD))
