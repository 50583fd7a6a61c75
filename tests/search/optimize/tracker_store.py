"""Tells a tracker of a run in two parts, and prints what its store on this machine has then, as JSON.

Runs with the packages of the trackers: ``tracker_store.py NAME FOLDER``.
"""

import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from mergesearch.search.optimize.trackers import TrackedRun, Values, begin

ENDING = {"verdict/sentence": "Use it.", "test/a": 0.75}


def trial(number: int) -> Values:
    return {"score": number / 4, "best": number / 4, "param/x": 0.5, "param/method": "ties", "name": f"trial {number}"}


def told(name: str, folder: Path) -> list[str]:
    """Two trials, and then by the id another one and the verdict; gives the ids."""
    (folder / "report.html").write_text("<p>report</p>")
    run = TrackedRun("small", folder, {"search": {"trials": 3}})
    first = begin(name, run, None)
    for number in range(2):
        first.trial(number, trial(number))
    first.close(True)
    second = begin(name, run, first.id)
    second.trial(2, trial(2))
    second.concluded(ENDING, [folder / "report.html"])
    second.close(False)
    return [first.id, second.id]


def tensorboard(folder: Path, _: str) -> dict[str, Any]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder / "tensorboard"), {"tensors": 0})
    found.Reload()
    texts = {
        tag: [e.tensor_proto.string_val[0].decode() for e in found.Tensors(tag)] for tag in found.Tags()["tensors"]
    }
    scores = [[event.step, event.value] for event in found.Scalars("score")]
    return {
        "scores": scores,
        "ending": [texts["verdict/sentence/text_summary"][0], found.Scalars("test/a")[0].value],
        "config": "trials: 3" in texts["config/text_summary"][0],
        "methods": [text for text in texts["trial/text_summary"] if "ties" in text],
    }


def mlflow(_: Path, id_: str) -> dict[str, Any]:
    from mlflow import MlflowClient

    client = MlflowClient()
    run = client.get_run(id_)
    children = client.search_runs([run.info.experiment_id], f"tags.mlflow.parentRunId = '{id_}'")
    return {
        "scores": [[metric.step, metric.value] for metric in client.get_metric_history(id_, "score")],
        "ending": [run.data.tags["verdict/sentence"], run.data.metrics["test/a"]],
        "config": run.data.params["search.trials"] == "3",
        "methods": [child.data.params["param/method"] for child in children],
        "files": [file.path for file in client.list_artifacts(id_)],
        "state": run.info.status,
    }


def trackio(_: Path, id_: str) -> dict[str, Any]:
    from trackio import SQLiteStorage

    logs = SQLiteStorage.get_logs("mergesearch", id_)
    trials, (ending,) = [log for log in logs if "score" in log], [log for log in logs if "test/a" in log]
    return {
        "scores": [[log["step"], log["score"]] for log in trials],
        "ending": [ending["verdict/sentence"], ending["test/a"]],
        "config": SQLiteStorage.get_run_config("mergesearch", id_)["search"] == {"trials": 3},
        "methods": [log["param/method"] for log in trials],
        "files": [artifact["name"] for artifact in SQLiteStorage.list_artifacts("mergesearch")],
    }


def wandb(folder: Path, id_: str) -> dict[str, Any]:
    import wandb as library
    from wandb.proto.wandb_internal_pb2 import Record

    library.teardown()  # its process writes the files
    files = sorted(folder.glob("wandb/offline-run-*/run-*.wandb"))
    records = [Record.FromString(data) for file in files for data in _leveldb_log(file.read_bytes()[7:])]
    rows = [_decoded(record.history.item) for record in records if record.HasField("history")]
    summary = _decoded(each for record in records if record.HasField("summary") for each in record.summary.update)
    runs = [record.run for record in records if record.HasField("run")]
    config = _decoded(update for run in runs for update in run.config.update)
    return {
        "scores": [[row["_step"], row["score"]] for row in rows if "score" in row],
        "ending": [summary["verdict/sentence"], summary["test/a"]],
        "config": config["search"] == {"trials": 3},
        "methods": [row["param/method"] for row in rows if "param/method" in row],
        "is_one": {run.run_id for run in runs} == {id_},
    }


def _leveldb_log(data: bytes, begun: bytes = b"", first: int = 7, block: int = 32768) -> Iterator[bytes]:
    """The records of a log of LevelDB behind a head of seven bytes: each is one or more chunks, none beyond a block."""
    place = 0
    while place + 7 <= len(data):
        left = block - (first + place) % block
        if left < 7:
            place += left
            continue
        length, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        begun += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last chunk
            yield begun
            begun = b""


def _decoded(items: Iterable[Any]) -> dict[str, Any]:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


def main() -> None:
    name, folder = sys.argv[1], Path(sys.argv[2])
    ids = told(name, folder)
    print(json.dumps({"ids": ids, **globals()[name](folder, ids[1])}))


if __name__ == "__main__":
    main()
