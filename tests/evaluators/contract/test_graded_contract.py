"""What every evaluator with margins keeps to. The table of cases is all that a new one needs."""

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from mergesearch.evaluators import (
    EVALUATORS,
    Evaluator,
    Graded,
    LoadedModel,
    Shared,
    aggregate,
    has_targets,
    is_graded,
    open_evaluator,
    spread,
)

from ...tolerances import aligned, assert_close, close, path_length
from ..helpers import LABELS, sentence, write_rows
from ..lm_eval_tasks import MULTIPLE_CHOICE, write_task

TINY = 1e-305
"""A scale beside which every margin is large, those of ties too."""


@dataclass(frozen=True)
class Case:
    """An evaluator of the table, with options."""

    evaluator: str
    task: str
    metric: str
    decides: bool = True
    """Whether margins above 0 are exactly the right decisions: not where a text may be right in other words."""
    jumps: bool = True
    """Whether other weights change a score: not where all models prefer the shortest choice."""

    def __str__(self) -> str:
        return f"{self.evaluator}-{self.task}-{self.metric}"


CASES = [
    Case("lm_eval", "toy_mc", "acc"),
    Case("lm_eval", "toy_mc", "acc_norm"),
    Case("lm_eval", "toy_scripts", "acc_bytes", jumps=False),
    Case("lm_eval", "toy_wino", "acc"),
    Case("lm_eval", "toy_yes", "acc_mutual_info"),
    Case("lm_eval", "toy_yes", "f1"),
    Case("lm_eval", "toy_yes", "mcc"),
    Case("lm_eval", "toy_twins", "acc", jumps=False),
    Case("lm_eval", "toy_golds", "acc"),
    Case("lm_eval", "toy_golds", "acc_norm"),
    Case("lm_eval", "toy_golds", "exact_match"),
    Case("lm_eval", "toy_word", "acc"),
    Case("lm_eval", "toy_gen", "exact_match,whole", decides=False),
    Case("lm_eval", "toy_lists", "exact_match", decides=False),
    Case("lm_eval", "mixed", "exact_match", decides=False),
    Case("lm_eval", "nested", "acc"),
    Case("lm_eval", "evenly", "acc"),
    *(Case("classification", "classes", metric) for metric in ("accuracy", "f1", "f1_macro", "f1_weighted", "mcc")),
]
WITHOUT = [
    ("lm_eval", {"task": "toy_yes", "metric": "brier_score"}),
    ("lm_eval", {"task": "toy_word", "metric": "perplexity"}),
    ("lm_eval", {"task": "toy_text", "metric": "bits_per_byte"}),
    ("lm_eval", {"task": "toy_bleu", "metric": "bleu"}),
    ("lm_eval", {"task": "toy_parts", "metric": "parts"}),
    ("perplexity", {"task": "texts", "files": ["{folder}/a.txt"]}),
    ("bits_per_byte", {"task": "texts", "files": ["{folder}/a.txt"]}),
    ("embedding", {"task": "pairs", "data": "{folder}/pairs.jsonl"}),
    ("function", {"task": "judged", "function": "{folder}/judge.py:judge"}),
    ("command", {"task": "judged", "command": ["true", "{model}"]}),
]
DRAW = random.Random(6)
GOLDS = [
    {"question": sentence(DRAW, 6), "choices": [sentence(DRAW, DRAW.randint(1, 3)) for _ in range(4)], "gold": golds}
    for golds in ([0], [1, 2], [3, 0], [2], [0, 1, 2, 3], [1])
]
"""Questions with several correct choices."""
MIXED = """group: mixed
task: [toy_golds, toy_lists]
aggregate_metric_list:
  - {metric: exact_match, weight_by_size: false}
"""
"""A task that scores given answers, and one that generates."""
TWINS = [{"question": sentence(DRAW, 6), "choices": ["cat", "cat", "a dog", "cat"], "gold": n % 4} for n in range(8)]
"""Questions with equal choices, whose log-probabilities tie."""


@pytest.fixture(scope="module")
def folder(tasks: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tasks, and files for the other evaluators."""
    folder = tmp_path_factory.mktemp("graded")
    for file in tasks.iterdir():
        (folder / file.name).symlink_to(file)
    exact = "  - {metric: exact_match, aggregation: mean, higher_is_better: true}\nnum_fewshot: 0\n"
    write_task(folder, "toy_golds", GOLDS, MULTIPLE_CHOICE + exact)
    (folder / "mixed.yaml").write_text(MIXED)
    write_task(folder, "toy_twins", TWINS, MULTIPLE_CHOICE + "num_fewshot: 0\n")
    draw = random.Random(8)
    texts = [sentence(draw, draw.randint(2, 30)) for _ in range(24)]
    write_rows(folder / "classes.jsonl", [{"text": text, "label": draw.choice(LABELS)} for text in texts])
    pairs = [{"sentence1": text, "sentence2": sentence(draw, 9), "score": draw.random()} for text in texts]
    write_rows(folder / "pairs.jsonl", pairs)
    (folder / "a.txt").write_text("sun moon cat")
    (folder / "judge.py").write_text("def judge(model, tokenizer):\n    return 0.5\n")
    return folder


def opened(name: str, options: dict[str, Any], folder: Path, **shared: Any) -> Evaluator:
    parsed = EVALUATORS[name].Options.model_validate(options)
    return open_evaluator(name, parsed, Shared(**{"include_path": folder, "batch_size": 6, **shared}))


def opened_case(case: Case, folder: Path) -> Any:
    options: dict[str, Any] = {"task": case.task, "metric": case.metric}
    if case.evaluator == "classification":
        options |= {"data": str(folder / "classes.jsonl")}
        options |= {"positive": "place"} if case.metric == "f1" else {}
    return opened(case.evaluator, options, folder)


@pytest.fixture(scope="module", params=CASES, ids=str)
def case(request: pytest.FixtureRequest) -> Case:
    found: Case = request.param
    return found


@pytest.fixture(scope="module")
def evaluator(case: Case, folder: Path) -> Any:
    return opened_case(case, folder)


@pytest.fixture(scope="module")
def subject(case: Case, saved: Path, saved_classifier: Path) -> LoadedModel:
    """In float64. Tests that change its weights put them back."""
    if case.evaluator == "classification":
        folder, kind = saved_classifier, AutoModelForSequenceClassification
    else:
        folder, kind = saved, AutoModelForCausalLM
    return LoadedModel(aligned(kind.from_pretrained(folder).eval().double()), AutoTokenizer.from_pretrained(folder))


@pytest.fixture(scope="module")
def scored(evaluator: Any, subject: LoadedModel) -> tuple[Tensor, Tensor]:
    """The scores and margins of all items."""
    found: tuple[Tensor, Tensor] = evaluator.score_with_margins(subject, evaluator.items)
    return found


@pytest.fixture
def weights(subject: LoadedModel) -> Iterator[dict[str, Tensor]]:
    """The weights, which are put back afterwards."""
    before = {name: value.clone() for name, value in subject.model.state_dict().items()}
    yield before
    subject.model.load_state_dict(before)


def test_every_evaluator_is_listed() -> None:
    assert {case.evaluator for case in CASES} | {name for name, _ in WITHOUT} == {*EVALUATORS}


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize(("name", "options"), WITHOUT, ids=lambda value: str(value) if isinstance(value, str) else "")
def test_what_decides_nothing_has_no_margins(name: str, options: dict[str, Any], folder: Path) -> None:
    filled = {
        key: [each.replace("{folder}", str(folder)) for each in value]
        if isinstance(value, list)
        else value.replace("{folder}", str(folder))
        for key, value in options.items()
    }
    assert not is_graded(opened(name, filled, folder))


def test_scores_are_those_without_margins_to_the_last_bit(evaluator: Any, subject: LoadedModel) -> None:
    assert is_graded(evaluator)
    assert isinstance(evaluator, Graded)
    for items in (evaluator.items, evaluator.items[1:4], []):
        scores, margins = evaluator.score_with_margins(subject, items)
        assert torch.equal(scores, evaluator.score(subject, items))
        assert (margins.dtype, margins.device.type, len(margins)) == (torch.float64, "cpu", len(items))


def test_grades_are_between_0_and_1(evaluator: Any, scored: tuple[Tensor, Tensor]) -> None:
    items, (_, margins) = evaluator.items, scored
    for scale in (TINY, 0.1, spread(margins), 1e3):
        grades = evaluator.grades(items, margins, scale)
        assert (grades.shape, grades.dtype) == ((len(items),), torch.float64)
        assert ((grades >= 0) & (grades <= 1)).all()
        assert -1 <= evaluator.graded_value(items, margins, scale) <= 1


def test_grades_of_a_tiny_scale_are_the_metric(case: Case, evaluator: Any, scored: tuple[Tensor, Tensor]) -> None:
    scores, margins = scored
    if not case.decides:
        return
    grades = evaluator.grades(evaluator.items, margins, TINY)
    if scores.dim() == 1:
        assert torch.equal(grades, scores)
    else:
        assert torch.equal(grades, (scores[:, 0] == scores[:, 1]).double())
    value = evaluator.value(evaluator.items, scores)
    assert evaluator.graded_value(evaluator.items, margins, TINY) == close(value, 3 * len(scores) + 8, magnitude=1.0)


def test_contributions_have_the_graded_value_as_their_mean(evaluator: Any, scored: tuple[Tensor, Tensor]) -> None:
    for count in (len(evaluator.items), 3, 1):
        items, margins = evaluator.items[:count], scored[1][:count]
        parts = evaluator.graded_contributions(items, margins, 0.7)
        value = evaluator.graded_value(items, margins, 0.7)
        assert aggregate(items, parts) == close(value, 9 * count + 16, magnitude=2.0 * count)


def test_contributions_at_a_tiny_scale_are_those_to_the_metric(
    case: Case, evaluator: Any, scored: tuple[Tensor, Tensor]
) -> None:
    scores, margins = scored
    if case.decides:
        expected = evaluator.contributions(evaluator.items, scores)
        found = evaluator.graded_contributions(evaluator.items, margins, TINY)
        assert_close(found, expected, 9 * len(scores) + 16, magnitude=2.0 * len(scores))


def test_flatter_probabilities_have_the_same_grades(evaluator: Any, scored: tuple[Tensor, Tensor]) -> None:
    items, (_, margins) = evaluator.items, scored
    for factor in (0.25, 8.0):
        scales = 0.5 * spread(margins), 0.5 * spread(factor * margins)
        same = [evaluator.grades(items, m, s) for m, s in zip((margins, factor * margins), scales, strict=True)]
        assert torch.equal(*same)


def test_order_does_not_matter(evaluator: Any, subject: LoadedModel, scored: tuple[Tensor, Tensor]) -> None:
    items, (_, margins) = list(evaluator.items), scored
    order = random.Random(0).sample(range(len(items)), len(items))
    shuffled = [items[n] for n in order]
    _, again = evaluator.score_with_margins(subject, shuffled)
    assert torch.equal(again.nan_to_num(7.0), margins[order].nan_to_num(7.0))
    assert torch.equal(evaluator.grades(shuffled, again, 0.7), evaluator.grades(items, margins, 0.7)[order])
    value = evaluator.graded_value(items, margins, 0.7)
    assert evaluator.graded_value(shuffled, again, 0.7) == close(value, 4 * len(items) + 8, magnitude=1.0)


@pytest.mark.usefixtures("weights")
def test_not_a_number_names_the_item(evaluator: Any, subject: LoadedModel) -> None:
    with torch.no_grad():
        next(subject.model.parameters()).fill_(float("nan"))
    place = f"item {evaluator.items[1].id.rpartition('/')[2]}:"
    with pytest.raises(FloatingPointError, match=place):
        evaluator.score_with_margins(subject, evaluator.items[1:2])


def test_margins_can_be_graded_without_a_model(
    case: Case, evaluator: Any, scored: tuple[Tensor, Tensor], folder: Path
) -> None:
    _, margins = scored
    again = opened_case(case, folder)
    assert is_graded(again)
    assert torch.equal(again.grades(again.items, margins, 0.7), evaluator.grades(evaluator.items, margins, 0.7))
    assert again.graded_value(again.items, margins, 0.7) == evaluator.graded_value(evaluator.items, margins, 0.7)


def test_grades_change_smoothly_where_the_metric_jumps(
    case: Case, evaluator: Any, subject: LoadedModel, weights: dict[str, Tensor]
) -> None:
    """Along a line of weights the steps of the grades shrink with the steps of the weights; a jump's would not."""
    draw = torch.Generator().manual_seed(3)
    moved = {name: value for name, value in weights.items() if value.is_floating_point()}
    line = {name: torch.randn(value.shape, generator=draw).double() * 0.02 for name, value in moved.items()}

    def grades(at: float) -> Tensor:
        subject.model.load_state_dict({**weights, **{name: value + at * line[name] for name, value in moved.items()}})
        _, margins = evaluator.score_with_margins(subject, evaluator.items)
        graded: Tensor = evaluator.grades(evaluator.items, margins, 1.0)
        return graded if case.decides else graded[margins.isfinite()]  # without a margin the score is the grade

    for at in (0.0, 1.0):
        start = grades(at)
        wide, narrow = (grades(at + step) - start for step in (1e-2, 1e-4))
        assert narrow.abs().max() < 2e-2
        assert narrow.abs().max() <= 0.1 * wide.abs().max() + 1e-6


def test_where_a_score_jumps_the_grade_does_not(
    case: Case, evaluator: Any, subject: LoadedModel, weights: dict[str, Tensor], scored: tuple[Tensor, Tensor]
) -> None:
    if not case.jumps:
        return
    draw = torch.Generator().manual_seed(5)
    moved = {name: value for name, value in weights.items() if value.is_floating_point()}
    line = {name: torch.randn(value.shape, generator=draw).double() * 0.1 for name, value in moved.items()}

    def move(at: float) -> None:
        subject.model.load_state_dict({**weights, **{name: value + at * line[name] for name, value in moved.items()}})

    for far in (1.0, 4.0, 16.0):
        move(far)
        after = evaluator.score(subject, evaluator.items)
        differs = [not torch.equal(one, other) for one, other in zip(after, scored[0], strict=True)]
        changed = [n for n, margin in enumerate(scored[1]) if differs[n] and not margin.isinf().any()]
        if changed:
            break
    items, ends = [evaluator.items[changed[0]]], [0.0, far]
    before = scored[0][changed[0]]
    for _ in range(28):
        middle = sum(ends) / 2
        move(middle)
        is_before = torch.equal(evaluator.score(subject, items)[0], before)
        ends = [middle, ends[1]] if is_before else [ends[0], middle]
    grades = []
    for end in ends:
        move(end)
        grades.append(evaluator.grades(items, evaluator.score_with_margins(subject, items)[1], 1.0).item())
    assert abs(grades[0] - grades[1]) < 1e-4


def rows_of(evaluator: Any, subject: LoadedModel) -> Iterator[tuple[Any, dict[str, Any], list[tuple[Tensor, Tensor]]]]:
    """For each document of an lm-eval task, each instance alone: [tokens, vocabulary] float64, and the tokens."""
    for subtask in evaluator.subtasks:
        for doc, group in zip(subtask.docs, subtask.instances(None), strict=True):
            yield subtask._task, doc, [logprobs_after(subject, *each.args) for each in group]


def logprobs_after(subject: LoadedModel, context: str, answer: str) -> tuple[Tensor, Tensor]:
    space = len(context) - len(context.rstrip())
    context, answer = (context[:-space], context[-space:] + answer) if space else (context, answer)
    start = subject.tokenizer(context).input_ids or [subject.tokenizer.bos_token_id]
    ids = torch.tensor(
        [*start, *subject.tokenizer(answer).input_ids] if not context else subject.tokenizer(context + answer).input_ids
    )
    fed = ids[-1 - int(subject.model.config.max_position_embeddings) : -1]
    with torch.no_grad():
        logits = subject.model(fed[None]).logits[0].double()
    predicted = logits - logits.exp().sum(-1, keepdim=True).log()
    return predicted[-(len(ids) - len(start)) :], ids[len(start) :]


def token_margin(rows: Tensor, ids: Tensor) -> float:
    """The least of the tokens' log-probabilities less the best other one's."""
    return min(
        float(row[n]) - max(float(value) for m, value in enumerate(row) if m != n)
        for row, n in zip(rows, ids.tolist(), strict=True)
    )


def naive(case: Case, evaluator: Any, subject: LoadedModel) -> list[Any]:
    """The margins from the definitions, by plain transformers."""
    found: list[Any] = []
    for task, doc, instances in rows_of(evaluator, subject):
        if case.task == "toy_word":
            found.append(token_margin(*instances[0]))
            continue
        choices = task.doc_to_choice(doc)
        gold = task.doc_to_text(doc) if case.task == "toy_wino" else task.doc_to_target(doc)
        golds = gold if isinstance(gold, list) else [gold]
        if case.metric == "exact_match":
            found.append(max(token_margin(*instances[n]) for n in golds))
            continue
        sums = [float(rows.gather(1, ids[:, None]).sum()) for rows, ids in instances]
        sizes = [{"acc_norm": len(c), "acc_bytes": len(c.encode())}.get(case.metric, 1) for c in choices]
        nats = sum(sizes) / len(sizes)
        values = [nats * x / size for x, size in zip(sums, sizes, strict=False)]
        if case.metric == "acc_mutual_info":
            values = [a - b for a, b in zip(sums, sums[len(choices) :], strict=False)]
        right = [values[n] for n in golds]
        wrong = [v for n, v in enumerate(values) if n not in golds]
        if case.metric in ("f1", "mcc"):
            found.append([float("nan") if n == gold else values[gold] - v for n, v in enumerate(values)])
        else:
            found.append(max(right) - max(wrong) if wrong else float("inf"))
    return found


def test_margins_by_their_definition(
    case: Case, evaluator: Any, subject: LoadedModel, scored: tuple[Tensor, Tensor]
) -> None:
    if case.evaluator != "lm_eval" or not case.decides or case.task == "evenly":
        return  # classification: see below; texts: see lm_eval/test_margins
    expected = torch.tensor(naive(case, evaluator, subject), dtype=torch.float64)
    _, margins = scored
    assert torch.equal(margins.isnan(), expected.isnan())
    assert torch.equal(margins.isinf(), expected.isinf())
    finite = expected.isfinite()
    assert_close(margins[finite], expected[finite], path_length(subject.model, 128), magnitude=400.0)


def test_labels_have_the_differences_of_logits(case: Case, evaluator: Any, subject: LoadedModel, folder: Path) -> None:
    if case.evaluator != "classification":
        return
    _, margins = evaluator.score_with_margins(subject, evaluator.items)
    expected: list[Any] = []
    for line in (folder / "classes.jsonl").read_text().splitlines():
        row = json.loads(line)
        inputs = subject.tokenizer(row["text"], return_tensors="pt", truncation=True, max_length=40)
        with torch.no_grad():
            logits = subject.model(**inputs).logits[0].tolist()
        gold, place = LABELS.index(row["label"]), LABELS.index("place")
        others = [logit for label, logit in enumerate(logits) if label != gold]
        by_label = [float("nan") if label == gold else logits[gold] - logit for label, logit in enumerate(logits)]
        besides = logits[place] - max(logit for label, logit in enumerate(logits) if label != place)
        positive = [besides, float("nan")] if gold == place else [float("nan"), -besides]
        own = {"accuracy": logits[gold] - max(others), "f1": positive}
        expected.append(own.get(case.metric, by_label))
    table = torch.tensor(expected, dtype=torch.float64)
    assert torch.equal(margins.isnan(), table.isnan())
    assert_close(margins.nan_to_num(0.0), table.nan_to_num(0.0), path_length(subject.model, 40), magnitude=100.0)


def test_the_graded_loss_is_one_less_the_grades(
    case: Case, evaluator: Any, subject: LoadedModel, scored: tuple[Tensor, Tensor]
) -> None:
    assert has_targets(evaluator)
    _, margins = scored
    scale = 0.5 * spread(margins)
    if case.metric.startswith(("f1", "mcc")):  # a mean over items, which batches do not change
        value = float(evaluator.grades(evaluator.items, margins, scale).mean())
    else:
        value = evaluator.graded_value(evaluator.items, margins, scale)
    loss = sum(each.item() for each in evaluator.targets(subject, evaluator.items).losses("graded", scale))
    assert 1 - loss == close(value, path_length(subject.model, 128), magnitude=400 / scale)
