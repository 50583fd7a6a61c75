"""What the tests of whole runs share: a run, its course, and a run that is killed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial
from torch import Tensor

from mergesearch.evaluators.tasks.bits_per_byte import BitsPerByte
from mergesearch.parsing import read_yaml
from mergesearch.search import run as runner
from mergesearch.search.candidates.plan import open_plan
from mergesearch.search.config import Config
from mergesearch.search.run import run
from mergesearch.search.session import Session
from mergesearch.search.statistics import Estimate
from mergesearch.search.study import trials as t
from mergesearch.search.study.run_folder import CONFIG, RunFolder
from mergesearch.search.study.run_store import RunStore
from mergesearch.search.verdict.result import CandidateRow, Verdict

from ..tolerances import close

Data = dict[str, Any]

OWNERS: dict[str, Any] = {
    "score": BitsPerByte,
    "targets": BitsPerByte,
    "tell": Study,
    "suggest_float": Trial,
    "save_scores": RunFolder,
    "write_verdict": runner,
}
"""Where a run can be killed, by the name of a method or of a function that a module calls."""


def go(data: Data, results: Path) -> Verdict:
    return run(open_plan(Config.model_validate(data), "config"), results)


def session_of(data: Data, results: Path, worker: str = "") -> Session:
    """One worker's session of a run, which has its folder."""
    plan = open_plan(Config.model_validate(data), "config")
    folder = RunFolder(results / plan.problem.config.output.name)
    folder.path.mkdir(parents=True, exist_ok=True)
    folder.worker = worker
    return Session(
        plan,
        RunStore(folder, folder.open_study(plan.problem.config.search.storage), plan.problem.tasks.items("search")),
    )


def study_of(folder: Path) -> Study:
    """The study of a run, in the storage that its config names."""
    return RunFolder(folder).open_study(read_yaml(folder / CONFIG)["search"].get("storage"))


def searched(study: Study) -> list[FrozenTrial]:
    """The trials that can win the run and are no baseline's model."""
    known = {trial.user_attrs[t.PHENOTYPE] for trial in t.of_kind(study, t.BASELINE)}
    return [trial for trial in t.contenders(study) if trial.user_attrs[t.PHENOTYPE] not in known]


def written(recipe: Path) -> str:
    """A recipe file without its comments."""
    return "".join(line for line in recipe.read_text().splitlines(keepends=True) if not line.startswith("#"))


def course(folder: Path) -> list[tuple[Any, ...]]:
    """What the finished trials were and scored, in order."""
    return [
        (t.kind_of(trial), trial.user_attrs.get(t.NAME), trial.params, trial.user_attrs[t.RECIPE], trial.value)
        for trial in t.finished(study_of(folder))
    ]


def rescored(value: float, layers: int = 2) -> Any:
    """What a small model is worth when it is scored again, on other items beside the same or by other code.

    In float32, over two hundred operations a layer and a hundred beside them (see ``path_length``).
    """
    return close(value, 200 * layers + 100, torch.float32)


class Killed(KeyboardInterrupt):
    """Ends a run nearly as SIGKILL would: it passes every handler."""


def at_call(call: int, act: Callable[[], object], function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, but ``act`` is done before that one of its calls."""
    calls = 0

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            act()
        return function(*args, **kwargs)

    return counted


def kill() -> NoReturn:
    raise Killed


def killed(  # noqa: PLR0917 - what runs, and where it ends
    monkeypatch: pytest.MonkeyPatch, place: str, call: int, data: Data, results: Path, owner: Any = None
) -> None:
    """Begins the run, or goes on with it, until it is killed at that call of that place.

    owner: Has the method ``place``, where that is another than in ``OWNERS``.
    """
    owner = owner or OWNERS[place]
    with monkeypatch.context() as patch:
        patch.setattr(owner, place, at_call(call, kill, getattr(owner, place)))
        with pytest.raises(Killed):
            go(data, results)


def row(name: str, trial: int) -> CandidateRow:
    """A row of a verdict's table."""
    return CandidateRow(name, trial, "ties", Estimate(0.5, 0.4, 0.6), Estimate(0.5, 0.4, 0.6), {})


def llama_of_letters(letters: str, layers: int) -> tuple[Callable[[], Any], Any]:
    """What makes a small Llama whose tokens are letters, and its tokenizer."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokens = {letter: index for index, letter in enumerate(["<s>", *letters])}
    tokenizer = Tokenizer(models.WordLevel(tokens, unk_token="<s>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="<s>", unk_token="<s>")
    config = LlamaConfig(
        vocab_size=len(tokens),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=layers,
        num_attention_heads=2,
        max_position_embeddings=64,
    )
    return lambda: LlamaForCausalLM(config), fast


def save_fine_tunes(folder: Path, make: Callable[[], Any], tokenizer: Any, spread: float) -> None:
    """Writes base, one and two: a new model, and twice the same with so much noise on its weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = make()
        start = {name: value.clone() for name, value in model.state_dict().items()}
        for name in ("base", "one", "two"):
            amount = spread * (name != "base")
            model.load_state_dict({key: _noisy(value, amount) for key, value in start.items()})
            model.save_pretrained(folder / name)
            tokenizer.save_pretrained(folder / name)


def _noisy(value: Tensor, amount: float) -> Tensor:
    return value + amount * torch.randn_like(value) if value.is_floating_point() else value
