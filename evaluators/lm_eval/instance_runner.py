"""lm-eval's instances on one model: tokenized once, run for every candidate."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch

from mergesearch.errors import UserError, in_words, listed
from mergesearch.evaluators.contract.loaded_model import LoadedModel, budget_of
from mergesearch.evaluators.contract.options import Shared
from mergesearch.evaluators.inference.batch_plan import Request
from mergesearch.evaluators.inference.generation import GreedyGenerator
from mergesearch.evaluators.inference.kv_cache import Completion
from mergesearch.evaluators.inference.logprobs import ContinuationScorer, Sureness
from mergesearch.evaluators.inference.scoring_modes import choose_compilation, choose_packing
from mergesearch.evaluators.lm_eval.hflm import rolling_requests
from mergesearch.steps import part
from mergesearch.text import quoted

TESTED_TEXTS = 4
"""Number of texts that are generated both by lm-eval's code and by ours, before ours is used."""


class InstanceRunner:
    """Runs the instances of one task with one model, whose weights may change between calls."""

    def __init__(self, hflm: Any, subject: LoadedModel, documents: Sequence[Sequence[Any]], shared: Shared) -> None:
        """Tokenizes the instances that have log-probabilities. Raises UserError for those that cannot be run.

        Args:
            hflm: The model as ``hflm.wrap`` returns it.
            subject: The same model.
            documents: For each document its instances, in the order of their ``idx``.
            shared: Options of all tasks.
        """
        self._hflm = hflm
        self._subject = subject
        self._documents = documents
        self._shared = shared
        self._budget = budget_of(subject)
        scored = [each for instances in documents for each in instances if each.request_type != "generate_until"]
        self._query = {id(instance): number for number, instance in enumerate(scored)}
        self.generator = GreedyGenerator(hflm)
        generated = [each for instances in documents for each in instances if id(each) not in self._query]
        requests = self._tokenized(scored, generated)
        is_exact = shared.mode == "exact"
        self.scorer = ContinuationScorer(subject, requests, hflm.max_length, shared.batch_size, is_exact)
        self.generator.separate_batches |= is_exact

    def queries(self, instances: Sequence[Any]) -> tuple[int, ...]:
        """For each instance the index of its query in the scorer."""
        return tuple(self._query[id(instance)] for instance in instances)

    def with_documents(self, documents: Sequence[Sequence[Any]]) -> InstanceRunner:
        """Runs other instances with the same model."""
        runner = InstanceRunner(self._hflm, self._subject, documents, self._shared)
        runner.choose_modes()
        return runner

    def can_score(self, instance: Any) -> bool:
        """Whether the instance has tokens that any model can score."""
        try:
            return bool(self._tokenize(instance))
        except UserError:
            return False

    def choose_modes(self) -> list[str]:
        """Tests the faster ways to score and to generate on the current weights, and uses those that are equivalent.

        Returns:
            Notes for the user.

        Raises:
            UserError: The mode is ``packed``, but the model cannot score packed sequences.
        """
        scored = [self.queries([each for each in group if id(each) in self._query]) for group in self._documents]
        scored = [queries for queries in scored if queries]
        model, shared = self._subject.model, self._shared
        packing = choose_packing(model, shared.mode, self.scorer, scored)
        compilation = choose_compilation(model, shared.compile, self.scorer, scored)
        self.scorer.try_budget()
        return [*self._truncation_notes(scored), *packing, *compilation, *self._choose_generation()]

    def _truncation_notes(self, documents: Sequence[Sequence[int]]) -> list[str]:
        context = self._hflm.max_length
        longest = context + 1  # the model predicts the last token, but does not get it
        cut = sum(any(self.scorer.query_length(query) > longest for query in queries) for queries in documents)
        if not cut:
            return []
        return [
            f"{cut} of {len(documents)} items are longer than the model's context of {context} tokens; "
            "tokens at their beginning are cut, as in lm-eval"
        ]

    def _choose_generation(self) -> list[str]:
        """Generates a few texts by lm-eval's code and by ours, and uses ours if the texts are equal. Returns notes."""
        if self.generator.is_usable is not None:
            return []
        self.generator.is_usable = False
        generated = (each for instances in self._documents for each in instances if id(each) not in self._query)
        greedy = ((each, text) for each in generated if (text := self.generator.completion(*each.args)) is not None)
        tested = list(islice(greedy, TESTED_TEXTS))
        reasons = self._reasons_against_generation(tested) if tested else []
        if not reasons:
            return []
        how = "in separate batches" if self.generator.is_usable else "by lm-eval's own code"
        return [f"texts are generated {how}, which is slower: {reasons[0]}"]

    def _reasons_against_generation(self, tested: Sequence[tuple[Any, Completion]]) -> list[str]:
        """Chooses the fastest equivalent way to generate. Returns why each faster way is not used."""
        expected, is_valid = self._generate_by_hflm([instance for instance, _ in tested])
        if not is_valid:
            return ["the model's output is not a number"]
        reasons = []
        for separate_batches in (True,) if self.generator.separate_batches else (False, True):
            self.generator.separate_batches = separate_batches
            reason = self._reason_against_generation(tested, expected)
            if not reason:
                self.generator.is_usable = True
                break
            reasons.append(reason)
        return reasons

    def _reason_against_generation(self, tested: Sequence[tuple[Any, Completion]], expected: Sequence[str]) -> str:
        try:
            return "" if self._generate_fast(tested, TESTED_TEXTS // 2) == expected else "the texts differ"
        except FloatingPointError:
            return "the model's output is not a number"
        except (RuntimeError, ValueError, TypeError, NotImplementedError, AttributeError) as error:
            return in_words(error)

    def run(self, instances: Sequence[Any]) -> None:
        """Sets ``resps`` of each instance to the model's answers, as ``lm_eval.evaluate`` does.

        Raises:
            FloatingPointError: The model's output is not a number. The message names the item.
        """
        scored = [instance for instance in instances if id(instance) in self._query]
        with part(len(scored) / max(1, len(instances))):
            self._set_answers(scored, self.scorer.score(self.queries(scored)))
        self._run_generated(instances)

    def run_with_sureness(self, instances: Sequence[Any], token_margins: bool) -> dict[int, Sureness]:
        """The same, and the sureness of those instances that are scored, by their ``id``."""
        scored = [instance for instance in instances if id(instance) in self._query]
        with part(len(scored) / max(1, len(instances))):
            answers, sure = self.scorer.score_with_sureness(self.queries(scored), token_margins)
        self._set_answers(scored, answers)
        self._run_generated(instances)
        return dict(zip(map(id, scored), sure, strict=True))

    def _run_generated(self, instances: Sequence[Any]) -> None:
        generated = [instance for instance in instances if id(instance) not in self._query]
        with part(len(generated) / max(1, len(instances))):
            texts = iter(self._generate([instance for instance in generated for _ in range(instance.repeats)]))
        for instance in generated:
            instance.resps = [next(texts) for _ in range(instance.repeats)]

    def _set_answers(self, instances: Sequence[Any], answers: Sequence[tuple[float, bool]]) -> None:
        """(log-probability, is greedy) for each instance, or the log-probability alone for a rolling instance."""
        for instance, answer in zip(instances, answers, strict=True):
            if math.isnan(answer[0]):
                raise _not_a_number(instance)
            is_rolling = instance.request_type == "loglikelihood_rolling"
            instance.resps = [answer[0] if is_rolling else answer] * instance.repeats

    def _tokenized(self, scored: Sequence[Any], generated: Sequence[Any]) -> list[tuple[Request, ...]]:
        """The requests of the scored instances. Raises UserError, which names all items that no model can answer."""
        requests: list[tuple[Request, ...]] = []
        problems: dict[str, str] = {}
        for instance in scored:
            try:
                requests.append(self._tokenize(instance))
            except UserError as error:
                problems.setdefault(_name(instance), str(error))
        for instance in generated:
            if problem := self._problem_of_prompt(instance):
                problems.setdefault(_name(instance), problem)
        if problems:
            others = list(problems)[1:]
            more = f"; this also holds for, or something else is wrong with, {listed(others)}" if others else ""
            raise UserError(f"{next(iter(problems.values()))}{more}; no model can be scored on this: leave it out")
        return requests

    def _tokenize(self, instance: Any) -> tuple[Request, ...]:
        if instance.request_type not in ("loglikelihood", "loglikelihood_rolling"):
            raise UserError(f"{_name(instance)}: requests of type {instance.request_type!r} are not supported")
        try:
            if instance.request_type == "loglikelihood_rolling":
                return rolling_requests(self._hflm, instance.args[0])
            return (self._tokenize_pair(instance),)
        except UserError:
            raise
        except Exception as error:  # tokenizers and lm-eval raise anything
            raise UserError(f"{_name(instance)}: lm-eval cannot tokenize it: {in_words(error)}") from error

    def _tokenize_pair(self, instance: Any) -> Request:
        tokenized = self._hflm.loglikelihood([instance], disable_tqdm=True) if any(instance.args) else []
        request = Request(tuple(tokenized[0][1]), tuple(tokenized[0][2])) if tokenized else Request((), ())
        context, answer = instance.args
        if not request.continuation:
            raise UserError(f"{_name(instance)}: the answer {quoted(answer)} has no tokens of its own")
        if not request.context:
            raise UserError(
                f"{_name(instance)}: what stands before the answer {quoted(answer)} is {quoted(context)}, which has no "
                "tokens that an answer could follow"
            )
        if len(request.continuation) > self._hflm.max_length:
            raise UserError(
                f"{_name(instance)}: an answer has {len(request.continuation)} tokens, which is more than the model's "
                f"context of {self._hflm.max_length}"
            )
        return request

    def _problem_of_prompt(self, instance: Any) -> str:
        try:
            has_tokens = self.generator.has_tokens(instance.args[0])
        except Exception as error:  # tokenizers raise anything
            return f"{_name(instance)}: lm-eval cannot tokenize it: {in_words(error)}"
        return "" if has_tokens else f"{_name(instance)}: its prompt {quoted(instance.args[0])} has no tokens"

    def _generate(self, instances: Sequence[Any]) -> list[str]:
        """Greedy texts by our code if it ``is_usable``; all others by HFLM."""
        is_usable = self.generator.is_usable
        completions = [self.generator.completion(*each.args) if is_usable else None for each in instances]
        pairs = list(zip(instances, completions, strict=True))
        fast = iter(self._generate_fast([(each, text) for each, text in pairs if text is not None]))
        slow = iter(self._generate_slow([each for each, text in pairs if text is None]))
        return [next(slow if text is None else fast) for text in completions]

    def _generate_fast(self, asked: Sequence[tuple[Any, Completion]], batch_size: int | None = None) -> list[str]:
        """The text of each instance. Equal prompts are run once."""
        distinct = {(tuple(text.prompt), text.max_tokens, text.stop): text for _, text in asked}
        self.generator.generate(list(distinct.values()), batch_size or self._shared.batch_size, self._budget)
        answers = [distinct[tuple(text.prompt), text.max_tokens, text.stop] for _, text in asked]
        for (instance, _), answer in zip(asked, answers, strict=True):
            if not answer.is_valid:
                raise _not_a_number(instance)
        return [self.generator.text(answer) for answer in answers]

    def _generate_slow(self, instances: Sequence[Any]) -> list[str]:
        texts, is_valid = self._generate_by_hflm(instances)
        if not is_valid:
            invalid = (instance for instance in instances if not self._generate_by_hflm([instance])[1])
            raise _not_a_number(next(invalid, instances[0]))
        return texts

    def _generate_by_hflm(self, instances: Sequence[Any]) -> tuple[list[str], bool]:
        """The texts, and whether the logits of every generated token are numbers. HFLM itself does not check them."""
        with _validity_of_calls(self._subject.model) as valid:
            try:
                texts: list[str] = self._hflm.generate_until(list(instances), disable_tqdm=True)
            except AssertionError as error:  # lm-eval's error for settings that do not fit the model
                raise UserError(f"task {instances[0].task_name!r}: {error}") from error
        return texts, all(bool(each) for each in valid)


@contextmanager
def _validity_of_calls(model: torch.nn.Module) -> Iterator[list[torch.Tensor]]:
    """Collects for each forward call a bool tensor: whether all logits at the last position are numbers."""
    valid: list[torch.Tensor] = []

    def check(_module: Any, _inputs: Any, output: Any) -> None:
        valid.append(~output.logits[:, -1].isnan().any())

    handle = model.register_forward_hook(check)
    try:
        yield valid
    finally:
        handle.remove()


def _name(instance: Any) -> str:
    return f"task {instance.task_name!r}, item {instance.doc_id}"


def _not_a_number(instance: Any) -> FloatingPointError:
    return FloatingPointError(f"{_name(instance)}: the model's output is not a number")
