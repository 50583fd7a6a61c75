"""The questions of lm-eval tasks, put to one live model: encoded once, asked for every candidate."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch

from mergesearch.errors import UserError, in_words
from mergesearch.evaluators.contract.evaluator import LoadedModel, Shared
from mergesearch.evaluators.contract.token_budget import budget_of
from mergesearch.evaluators.inference.generation import Generator
from mergesearch.evaluators.inference.logprobs import Request, Scorer
from mergesearch.evaluators.inference.prefix_sharing import settle, settle_compiled
from mergesearch.evaluators.lm_eval.hflm import rolling_requests

TRIED = 4
"""Texts that are generated both ways before the quicker is trusted."""


class Requests:
    """Documents' instances, encoded for one model and tokenizer."""

    def __init__(self, wrapped: Any, subject: LoadedModel, documents: Sequence[Sequence[Any]], shared: Shared) -> None:
        """wrapped: the model as ``_wrapped.wrap`` gives it. documents: of each the instances, by their ``idx``."""
        self._wrapped = wrapped
        self._subject = subject
        self._batch_size = shared.batch_size
        self._generator = Generator(wrapped)
        self._budget = budget_of(subject)
        scored = [one for group in documents for one in group if one.request_type != "generate_until"]
        self._question = {id(one): number for number, one in enumerate(scored)}
        encoded = [self._encoded(one) for one in scored]
        self.scorer = Scorer(subject, encoded, wrapped.max_length, shared.batch_size)
        self._documents = documents
        self._shared = shared
        self._generator.alone |= shared.mode == "exact"

    def numbers(self, instances: Sequence[Any]) -> tuple[int, ...]:
        """What the scorer calls the questions of a document, in the order of its instances."""
        return tuple(self._question[id(one)] for one in instances)

    def settle(self) -> list[str]:
        """Chooses the quickest ways that give the same answers, on the weights as they are; what users should know.

        Raises UserError where packing was insisted on in vain.
        """
        ours = [[self._question[id(one)] for one in group if id(one) in self._question] for group in self._documents]
        scored = [numbers for numbers in ours if numbers]
        model, shared = self._subject.model, self._shared
        packing = settle(model, shared.mode, self.scorer, scored)
        compiling = settle_compiled(model, shared.compile, self.scorer, scored)
        self.scorer.try_budget()
        return [*self._truncated(scored), *packing, *compiling, *self._try_generator()]

    def _truncated(self, documents: Sequence[Sequence[int]]) -> list[str]:
        context = self._wrapped.max_length
        longest = context + 1  # the last token is only predicted
        lost = sum(any(self.scorer.length(n) > longest for n in numbers) for numbers in documents)
        what = f"items are longer than the model's context of {context} tokens and lose their beginning, as in lm-eval"
        return [f"{lost} of {len(documents)} {what}"] if lost else []

    def _try_generator(self) -> list[str]:
        """Asks for the first few texts both ways; decides against where these weights do not allow it."""
        if self._generator.usable is not None:
            return []
        self._generator.usable = False
        generated = (one for group in self._documents for one in group if id(one) not in self._question)
        greedy = ((one, text) for one in generated if (text := self._generator.text(*one.args)) is not None)
        few = list(islice(greedy, TRIED))
        reasons = self._reasons_against(few) if few else []
        how = "batch by batch" if self._generator.usable else "by lm-eval's own code"
        return [f"texts are generated {how}, which is slower: {reasons[0]}"] if reasons else []

    def _reasons_against(self, few: Sequence[tuple[Any, Any]]) -> list[str]:
        """Settles on the quickest way to generate; what spoke against each that is quicker."""
        expected, sound = self._by_hflm([one for one, _ in few])
        if not sound:
            return ["the model's output is not a number"]
        reasons = []
        for alone in (True,) if self._generator.alone else (False, True):
            self._generator.alone = alone
            reason = self._reason_against(few, expected)
            if not reason:
                self._generator.usable = True
                break
            reasons.append(reason)
        return reasons

    def _reason_against(self, few: Sequence[tuple[Any, Any]], expected: Sequence[str]) -> str:
        """Why texts cannot be generated quickly, "" where nothing speaks against it."""
        try:
            return "" if self._quickly(few, TRIED // 2) == expected else "the texts differ"
        except FloatingPointError:
            return "the model's output is not a number"
        except (RuntimeError, ValueError, TypeError, NotImplementedError, AttributeError) as error:
            return in_words(error)

    def ask(self, instances: Sequence[Any]) -> None:
        """Leaves the model's answers on the instances, as ``lm_eval.evaluate`` does.

        Raises FloatingPointError, naming the item, where the model's output is not a number.
        """
        scored = [one for one in instances if id(one) in self._question]
        for instance, answer in zip(scored, self._scored(scored), strict=True):
            instance.resps = [answer] * instance.repeats
        generated = [one for one in instances if id(one) not in self._question]
        answers = iter(self._generated([one for one in generated for _ in range(one.repeats)]))
        for instance in generated:
            instance.resps = [next(answers) for _ in range(instance.repeats)]

    def _scored(self, instances: Sequence[Any]) -> list[Any]:
        """For each instance (log-probability, greedy), or the log-probability alone where it is a rolling one."""
        if not instances:
            return []
        answers = self.scorer.score([self._question[id(one)] for one in instances])
        for instance, (logprob, _) in zip(instances, answers, strict=True):
            if math.isnan(logprob):
                raise _not_a_number(instance)
        rolling = [one.request_type == "loglikelihood_rolling" for one in instances]
        return [answer[0] if alone else answer for answer, alone in zip(answers, rolling, strict=True)]

    def _encoded(self, instance: Any) -> tuple[Request, ...]:
        if instance.request_type == "loglikelihood_rolling":
            return rolling_requests(self._wrapped, instance.args[0])
        if instance.request_type == "loglikelihood":
            return (self._pair(instance),)
        raise UserError(f"{_place(instance)}: requests of type {instance.request_type!r} are not supported")

    def _pair(self, instance: Any) -> Request:
        encoded = self._wrapped.loglikelihood([instance], disable_tqdm=True) if any(instance.args) else []
        request = Request(tuple(encoded[0][1]), tuple(encoded[0][2])) if encoded else Request((), ())
        if not request.continuation:
            raise UserError(f"{_place(instance)}: the answer {instance.args[1]!r} has no tokens of its own")
        if len(request.continuation) > self._wrapped.max_length:
            raise UserError(
                f"{_place(instance)}: an answer of {len(request.continuation)} tokens is longer than the model's "
                f"context of {self._wrapped.max_length}"
            )
        return request

    def _generated(self, instances: Sequence[Any]) -> list[str]:
        """Greedy texts by ``_generation``, where ``settle`` found that it says what HFLM says; others by HFLM."""
        texts = [self._generator.text(*one.args) if self._generator.usable else None for one in instances]
        greedy = [pair for pair in zip(instances, texts, strict=True) if pair[1] is not None]
        others = [one for one, text in zip(instances, texts, strict=True) if text is None]
        quick, slow = iter(self._quickly(greedy, self._batch_size)), iter(self._slowly(others))
        return [next(slow if text is None else quick) for text in texts]

    def _quickly(self, asked: Sequence[tuple[Any, Any]], batch_size: int) -> list[str]:
        """asked: instances, each with its text to be."""
        distinct = {(tuple(text.prompt), text.most, text.stops): text for _, text in asked}
        self._generator.answer(list(distinct.values()), batch_size, self._budget)
        answered = [distinct[tuple(text.prompt), text.most, text.stops] for _, text in asked]
        for (instance, _), text in zip(asked, answered, strict=True):
            if not text.sound:
                raise _not_a_number(instance)
        return [self._generator.spoken(text) for text in answered]

    def _slowly(self, instances: Sequence[Any]) -> list[str]:
        answers, sound = self._by_hflm(instances)
        if not sound:
            lost = (instance for instance in instances if not self._by_hflm([instance])[1])
            raise _not_a_number(next(lost, instances[0]))
        return answers

    def _by_hflm(self, instances: Sequence[Any]) -> tuple[list[str], bool]:
        """The texts, and whether every logit that chose a token was a number: generation itself does not mind."""
        with _watched(self._subject.model) as sound:
            try:
                answers: list[str] = self._wrapped.generate_until(list(instances), disable_tqdm=True)
            except AssertionError as error:  # lm-eval's word for settings that do not fit the model
                raise UserError(f"task {instances[0].task_name!r}: {error}") from error
        return answers, all(bool(one) for one in sound)


@contextmanager
def _watched(model: torch.nn.Module) -> Iterator[list[torch.Tensor]]:
    """Collects, for each forward call, a bool tensor that says whether the last position's logits are numbers."""
    sound: list[torch.Tensor] = []

    def watch(_module: Any, _inputs: Any, output: Any) -> None:
        sound.append(~output.logits[:, -1].isnan().any())

    handle = model.register_forward_hook(watch)
    try:
        yield sound
    finally:
        handle.remove()


def _place(instance: Any) -> str:
    return f"task {instance.task_name!r}, item {instance.doc_id}"


def _not_a_number(instance: Any) -> FloatingPointError:
    return FloatingPointError(f"{_place(instance)}: the model's output is not a number")
