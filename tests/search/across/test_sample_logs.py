"""``compare`` on the files of ``lm_eval --log_samples``, which its own command line wrote, against scipy by hand."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

import mergesearch
from mergesearch import PairedComparison, UserError
from mergesearch.search.across.pairing import TaskDifference

from ...tolerances import close
from .conftest import Logs

Lines = list[dict[str, Any]]


def lines(folder: Path, task: str) -> Lines:
    (file,) = folder.rglob(f"samples_{task}_*.jsonl")
    return [json.loads(line) for line in file.read_text().splitlines()]


def differences(logs: Logs, task: str, metric: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    """One − two by document, read by hand."""
    one, two = ({line["doc_id"]: line[metric] for line in lines(each, task)} for each in (logs.one, logs.two))
    return np.array([one[number] - two[number] for number in sorted(one)], dtype=np.float64)


def by_task(found: PairedComparison) -> dict[str, TaskDifference]:
    return {each.task: each for each in found.tasks}


def exact_p(numbers: np.ndarray[Any, np.dtype[np.float64]]) -> float:
    """The two-sided p of scipy's test that flips all signs."""
    test = stats.permutation_test(
        (numbers,), np.mean, permutation_type="samples", n_resamples=np.inf, vectorized=True, axis=0
    )
    return float(test.pvalue)


def test_few_items_as_scipy_tests_them(logs: Logs) -> None:
    found, expected = by_task(mergesearch.compare(logs.one, logs.two))["few"], differences(logs, "few", "acc")
    assert expected.any()
    assert found.difference.value == close(float(expected.mean()), 12)
    assert found.p == close(exact_p(expected), 12)
    for end in (found.difference.low, found.difference.high):
        assert np.isfinite(end)
        inside, outside = (end + step * np.sign(found.difference.value - end) for step in (1e-6, -1e-6))
        assert exact_p(expected - inside) >= 0.05
        assert exact_p(expected - outside) < 0.05


def test_many_items_as_the_sign_test(logs: Logs) -> None:
    """Without ties, flips of right and wrong answers are those of a coin; 10,000 patterns are drawn."""
    found, expected = by_task(mergesearch.compare(logs.one, logs.two))["many"], differences(logs, "many", "acc")
    wins, losses = int((expected > 0).sum()), int((expected < 0).sum())
    assert (len(found.wins), len(found.losses)) == (wins, losses)
    exact = stats.binomtest(wins, wins + losses).pvalue
    assert found.p == pytest.approx(exact, rel=0, abs=4 * np.sqrt(exact * (1 - exact) / 10_000))


def test_values_are_those_that_lm_eval_prints(logs: Logs) -> None:
    found = mergesearch.compare(logs.one, logs.two, metrics=["acc", "acc_norm", "bits_per_byte"])
    assert [(each.task, each.metric, each.higher_is_better) for each in found.tasks] == [
        ("few", "acc", True),
        ("many", "acc", True),
        ("many", "acc_norm", True),
        ("texts", "bits_per_byte", False),
    ]
    for each in found.tasks:
        for name, value in (("one", each.a), ("two", each.b)):
            assert value == close(logs.printed[name].values[each.task][f"{each.metric},none"], 80, magnitude=4.0)
    texts = found.tasks[-1]
    assert {flip.item for flip in texts.wins} == {
        str(one["doc_id"])
        for one, two in zip(lines(logs.one, "texts"), lines(logs.two, "texts"), strict=True)
        if one["bits_per_byte"][0] > two["bits_per_byte"][0]
    }


def test_flips_have_question_and_answers(logs: Logs) -> None:
    found, documents = by_task(mergesearch.compare(logs.one, logs.two))["many"], lines(logs.one, "many")
    for flips, mine, other in ((found.wins, "answer_a", "answer_b"), (found.losses, "answer_b", "answer_a")):
        assert flips
        for flip in flips:
            document = documents[int(flip.item)]["doc"]
            right, wrong = document["choices"][document["answer"]], document["choices"][1 - document["answer"]]
            said = (flip.question, flip.right, getattr(flip, mine), getattr(flip, other))
            assert [text.strip() for text in said] == [document["text"], right, right, wrong]


def test_documents_of_one_group_count_once(logs: Logs) -> None:
    logged = mergesearch.compare(logs.one, logs.two, group="page", metrics=["acc"])
    found, pairs = by_task(logged)["few"], differences(logs, "few", "acc").reshape(6, 2)
    assert (found.items, found.clusters) == (12, 6)
    assert found.p == close(exact_p(pairs.sum(1)), 12)


def test_holm(logs: Logs) -> None:
    found = mergesearch.compare(logs.one, logs.two, metrics=["acc", "acc_norm", "bits_per_byte"])
    ordered = sorted(found.tasks, key=lambda each: each.p)
    expected = np.maximum.accumulate([min(1.0, (4 - rank) * each.p) for rank, each in enumerate(ordered)])
    assert [each.p_holm for each in ordered] == expected.tolist()


@pytest.fixture
def changed(logs: Logs, tmp_path: Path) -> Callable[[str, Callable[[Lines], object]], Path]:
    """A copy of the second model's logs, with one task's samples changed."""

    def change(task: str, act: Callable[[Lines], object]) -> Path:
        folder = tmp_path / "changed"
        shutil.copytree(logs.two, folder)
        (file,) = folder.rglob(f"samples_{task}_*.jsonl")
        samples = lines(logs.two, task)
        act(samples)
        file.write_text("".join(json.dumps(sample) + "\n" for sample in samples))
        return folder

    return change


Change = Callable[[str, Callable[[Lines], object]], Path]


def _prompt(samples: Lines) -> None:
    samples[3]["arguments"]["gen_args_0"]["arg_0"] = "another"


def _document(samples: Lines) -> None:
    samples[3]["doc_hash"] = "0" * 64


def _right(samples: Lines) -> None:
    samples[3]["target_hash"] = "0" * 64


@pytest.mark.parametrize(("act", "what"), [(_prompt, "prompt"), (_document, "document"), (_right, "document")])
def test_tasks_with_other_items_are_left_out(
    logs: Logs, changed: Change, act: Callable[[Lines], None], what: str
) -> None:
    other = changed("few", act)
    found = mergesearch.compare(logs.one, other)
    assert by_task(found).keys() == {"many", "texts"}
    (note,) = found.notes
    assert note.startswith(f"left out: task 'few': 1 of 12 items have another {what}, the first is 3")
    again = mergesearch.compare(logs.one, other, any_prompt=True)
    assert ("few" in by_task(again)) is (what == "prompt")


def test_items_that_one_lacks_are_left_out(logs: Logs, changed: Change) -> None:
    found = mergesearch.compare(logs.one, changed("few", lambda samples: samples.pop()))
    assert found.notes == ["left out: 1 items of task 'few' that only A was scored on"]
    assert by_task(found)["few"].items == 11


def test_another_version_is_left_out(logs: Logs, tmp_path: Path) -> None:
    shutil.copytree(logs.two, tmp_path / "other")
    (results,) = (tmp_path / "other").rglob("results_*.json")
    content = json.loads(results.read_text())
    content["versions"]["few"] = 2.0
    results.write_text(json.dumps(content))
    found = mergesearch.compare(logs.one, tmp_path / "other")
    assert found.notes == ["left out: task 'few': its version differs"]


def test_samples_alone_are_enough(logs: Logs, tmp_path: Path) -> None:
    for name, folder in (("one", logs.one), ("two", logs.two)):
        shutil.copytree(folder, tmp_path / name, ignore=shutil.ignore_patterns("results_*"))
    expected = mergesearch.compare(logs.one, logs.two)
    assert mergesearch.compare(tmp_path / "one", tmp_path / "two").tasks == expected.tasks


def test_one_file(logs: Logs) -> None:
    one, two = (next(folder.rglob("samples_few_*")) for folder in (logs.one, logs.two))
    assert list(by_task(mergesearch.compare(one, two))) == ["few"]


def test_what_cannot_be_compared_is_an_error(logs: Logs, changed: Change, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has samples in 2 folders"):
        mergesearch.compare(logs.one.parent, logs.one)
    few, texts = next(logs.one.rglob("samples_few_*")), next(logs.two.rglob("samples_texts_*"))
    with pytest.raises(UserError, match=r"nothing to compare: only A was scored on few \(acc\); only B "):
        mergesearch.compare(few, texts)
    with pytest.raises(UserError, match=r"has no metric f1; its metrics are acc"):
        mergesearch.compare(few, few, metrics=["f1"])
    with pytest.raises(UserError, match=r"is no run and no log of lm-eval; .* mergesearch compare A B CONFIG"):
        mergesearch.compare(tmp_path / "model", logs.one)
    twice = next(changed("few", lambda samples: samples.append(samples[0])).rglob("samples_few_*"))
    with pytest.raises(UserError, match=r"a document stands there twice"):
        mergesearch.compare(few, twice)
    bad = tmp_path / "samples_bad.jsonl"
    bad.write_text('{"doc_id": 0}\n')
    with pytest.raises(UserError, match=r"samples_bad.jsonl: line 1 has no 'arguments', 'doc', 'doc_hash'"):
        mergesearch.compare(bad, few)
    bad.write_text("[" * 100_000)
    with pytest.raises(UserError, match=r"line 1 is not JSON"):
        mergesearch.compare(bad, few)
