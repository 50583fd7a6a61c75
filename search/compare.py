"""``mergesearch compare``: two candidates on the same items, from runs, from logs of lm-eval, or scored now."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from mergesearch.errors import UserError
from mergesearch.evaluators.lm_eval.sample_files import has_logs
from mergesearch.files import PathName
from mergesearch.say import Say, silent
from mergesearch.search.across.finalists import Finalists
from mergesearch.search.across.pairing import PairedComparison, compared
from mergesearch.search.across.sample_logs import logged
from mergesearch.search.across.scored_task import Measured, scored_task
from mergesearch.search.config import Config
from mergesearch.search.evaluate import score_model
from mergesearch.search.problem.problem import read_config
from mergesearch.search.study.run_folder import CONFIG
from mergesearch.trust import trust_code

Which = Literal["recommended", "winner"]


def compare(  # noqa: PLR0913 - what may be said of a comparison
    a: PathName,
    b: PathName,
    config: Config | PathName | None = None,
    *,
    candidate: Which = "recommended",
    metrics: Sequence[str] = (),
    group: str | None = None,
    any_prompt: bool = False,
    say: Say = silent,
) -> PairedComparison:
    """Compares two candidates on the same items: paired differences with intervals and p, by task.

    Args:
        a: a finished run; a file, or a folder, of ``lm_eval --log_samples``; or with ``config`` a model: a checkpoint,
            a name on the hub, or a file with a recipe.
        b: another one of the same kind.
        config: whose tasks two models are scored on, search and test items alike.
        candidate: which candidate of a run: what its verdict recommends, or the best that its search found.
        metrics: of logs, the metrics to compare, ``NAME`` or ``NAME,FILTER``; by default the first one of each task.
        group: of logs, a field of the documents; documents with equal values count once.
        any_prompt: also compares items that the two were asked in other words, such as by other chat templates.
        say: gets notes for the user.

    Raises:
        UserError: there is nothing that both were scored on in the same way, or a source cannot be read.
    """
    if config is not None:
        one, two = (_scored(str(each), config, say) for each in (a, b))
        return compared(one, two, any_prompt)
    paths = Path(a), Path(b)
    kinds = [_kind(path) for path in paths]
    if kinds[0] != kinds[1]:
        raise UserError(f"{a} is {kinds[0]}, and {b} is {kinds[1]}; expected two of a kind")
    if kinds[0] == RUN:
        one, two = (_finalist(path, candidate) for path in paths)
    else:
        one, two = (logged(path, metrics, group) for path in paths)
    return compared(one, two, any_prompt)


RUN, LOGS = "a run", "a log of lm-eval"


def _kind(path: Path) -> str:
    if (path / CONFIG).is_file():
        return RUN
    if has_logs(path):
        return LOGS
    if not path.exists() or path.is_file() or (path / "config.json").is_file():
        raise UserError(
            f"{path}: is no run and no log of lm-eval; to compare models, say on whose tasks: "
            f"mergesearch compare A B CONFIG"
        )
    raise UserError(
        f"{path}: expected a run, which has a {CONFIG}, or files of lm_eval --log_samples, samples_TASK_DATE.jsonl"
    )


def _finalist(path: Path, candidate: Which) -> Measured:
    found = Finalists.read(path)
    return found.measured(found.about.winner if candidate == "winner" else found.about.recommended)


def _scored(model: str, config: Config | PathName, say: Say) -> Measured:
    """A model's scores."""
    read = config if isinstance(config, Config) else read_config(Path(config))
    where = "config" if isinstance(config, Config) else str(config)
    with trust_code(read.trust):
        say(f"scoring {model}")
        tasks, scores = score_model(model, read, where, say)
    measured = [scored_task(task, scores[task.name]) for task in tasks]
    return Measured(model, {(each.name, each.metric): each for each in measured})
