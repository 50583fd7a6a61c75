"""Stems: which sequences share one, and scores behind it."""

import random

from mergesearch.evaluators.inference.batch_plan import BatchLimits, Request, plan_batches
from mergesearch.evaluators.inference.stems import Stem, find_stems

from .helpers import CPU, WIDTH, close_logprobs, questions, random_model, scorer_of_questions, tokens


def test_questions_with_common_examples_have_a_stem() -> None:
    rng = random.Random(0)
    first, second = tokens(rng, 200), tokens(rng, 100)
    sequences = [
        tokens(rng, 50),
        *(first + tokens(rng, 30) for _ in range(8)),
        *(second + (n,) * 40 for n in range(20)),
    ]
    stems = sorted(find_stems(sequences, [1] * len(sequences), 8 * WIDTH), key=lambda stem: stem.length)
    assert [(stem.length, sorted(stem.members)) for stem in stems] == [
        (0, [0]),
        (100, list(range(9, 29))),
        (200, list(range(1, 9))),
    ]


def test_the_longer_stem_is_taken_where_most_sequences_have_it() -> None:
    rng = random.Random(0)
    common, rest = tokens(rng, 60), tokens(rng, 200)
    sequences = [common + tokens(rng, 40), *(common + rest + tokens(rng, 30) for _ in range(20))]
    assert find_stems(sequences, [1] * 21, 8 * WIDTH)[1].length == 260


def test_positions_that_are_needed_are_not_in_a_stem() -> None:
    rng = random.Random(0)
    common = tokens(rng, 200)
    sequences = [common + tokens(rng, 30) for _ in range(30)]
    assert max(stem.length for stem in find_stems(sequences, [100] * 30, 8 * WIDTH)) == 130


def test_the_choices_of_one_question_have_no_stem() -> None:
    rng = random.Random(0)
    context = tokens(rng, 50)
    assert find_stems([(*context, n, n) for n in range(4)], [1] * 4, WIDTH) == [Stem(0, (0, 1, 2, 3))]
    assert find_stems([], [], WIDTH) == []


def test_batches_behind_a_stem_have_its_tokens_once_and_keep_the_limit_of_keys() -> None:
    requests = [request for choices in questions(30, shots=100) for request in choices]
    plan = plan_batches(requests, BatchLimits(256, 32, 2_048, cached=1_000), CPU, WIDTH)
    stems = {id(batch.stem): batch.stem for batch in plan.batches}
    assert [stem.shape for stem in stems.values() if stem is not None] == [(1, 100)]
    assert all(len(batch.ids) * (100 + batch.ids.shape[1]) <= 1_000 for batch in plan.batches)
    without = plan_batches(requests, BatchLimits(256, 32, 2_048), CPU, WIDTH)
    assert all(batch.stem is None for batch in without.batches)


def test_a_stem_is_computed_again_for_other_weights() -> None:
    model = random_model("Llama").double()
    scorer, documents = scorer_of_questions(model, shots=80)
    queries = [query for document in documents for query in document]
    scorer.pack(WIDTH)
    scorer.score(queries)
    model.model.embed_tokens.weight.data.mul_(-1)
    packed = scorer.score(queries)
    scorer.pack(None)
    exact = [logprob for logprob, _ in scorer.score(queries)]
    assert [logprob for logprob, _ in packed] == close_logprobs(exact, model, 115)


def test_padding_is_limited_where_another_call_is_less_work() -> None:
    rng = random.Random(0)
    requests = [Request(tokens(rng, count), (5,)) for count in range(1, 41)]
    for padding in (None, 30):
        plan = plan_batches(requests, BatchLimits(64, 40, 4_096, padding=padding), CPU)
        padded = [batch.ids.numel() - int((batch.ids > 0).sum()) for batch in plan.batches]
        assert len(padded) == 1 if padding is None else max(padded) <= padding


def test_more_logits_are_computed_at_once_where_the_vocabulary_is_small() -> None:
    rng = random.Random(0)
    requests = [Request(tokens(rng, 1), tokens(rng, 20)) for _ in range(20)]
    counts = [
        len(plan_batches(requests, BatchLimits(64, 40, 400, vocabulary=vocabulary), CPU).batches)
        for vocabulary in (None, 1_000_000, 64)
    ]
    assert counts == [4, 4, 1]
