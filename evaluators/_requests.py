"""The questions of lm-eval tasks, put to one live model: encoded once, asked for every candidate."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from mergesearch.errors import UserError
from mergesearch.evaluators._base import LoadedModel
from mergesearch.evaluators._generation import Generator
from mergesearch.evaluators._logprobs import Limits, Request, Scorer
from mergesearch.evaluators._packing import Mode, Packing
from mergesearch.evaluators._wrapped import rolling_requests

TRIED = 4
"""Texts that are generated both ways before the quicker is trusted."""
_logger = logging.getLogger(__name__)


class Requests:
    """Documents' instances, encoded for one model and tokenizer."""

    def __init__(
        self, wrapped: Any, subject: LoadedModel, documents: Sequence[Sequence[Any]], batch_size: int, mode: Mode
    ) -> None:
        """wrapped: the model as ``_wrapped.wrap`` gives it. documents: of each the instances, by their ``idx``."""
        self._wrapped = wrapped
        self._subject = subject
        self._batch_size = batch_size
        self._generator = Generator(wrapped)
        scored = [one for group in documents for one in group if one.request_type != "generate_until"]
        self._question = {id(one): number for number, one in enumerate(scored)}
        encoded = [self._encoded(one) for one in scored]
        self._scorer = Scorer(subject.model, encoded, Limits(wrapped.max_length, batch_size))
        self._packing = Packing(subject.model, mode)
        groups = [[self._question[id(one)] for one in group if id(one) in self._question] for group in documents]
        self._groups = [group for group in groups if group]
        self._report_truncated(scored)

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
        self._packing.settle(self._scorer, self._groups)
        answers = self._scorer.score([self._question[id(one)] for one in instances])
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

    def _report_truncated(self, scored: Sequence[Any]) -> None:
        longest = self._wrapped.max_length + 1  # the last token is only predicted
        for task in dict.fromkeys(one.task_name for one in scored):
            own = [n for n, one in enumerate(scored) if one.task_name == task]
            lost = {scored[n].doc_id for n in own if self._scorer.length(n) > longest}
            if lost:
                count = f"{len(lost)} of {len({scored[n].doc_id for n in own})} items are"
                _logger.warning(
                    "task %r: %s longer than the model's context of %d tokens and lose their beginning, as in lm-eval",
                    *(task, count, self._wrapped.max_length),
                )

    def _generated(self, instances: Sequence[Any]) -> list[str]:
        """Greedy texts by ``_generation``, once that has given the same as HFLM; others, and all before, by HFLM."""
        if not instances:
            return []
        if self._generator.usable is None:
            self._try_generator(instances)
        texts = [self._generator.text(*one.args) for one in instances] if self._generator.usable else []
        if not texts or None in texts:
            return self._slowly(instances)
        return self._quickly(instances, texts)

    def _quickly(self, instances: Sequence[Any], texts: Sequence[Any]) -> list[str]:
        distinct = {(tuple(text.prompt), text.most, text.stops): text for text in texts}
        self._generator.answer(list(distinct.values()), self._batch_size)
        answered = [distinct[tuple(text.prompt), text.most, text.stops] for text in texts]
        for instance, text in zip(instances, answered, strict=True):
            if not text.sound:
                raise _not_a_number(instance)
        return [self._generator.spoken(text) for text in answered]

    def _try_generator(self, instances: Sequence[Any]) -> None:
        """Asks the first few both ways; decides nothing where these settings or weights do not allow it."""
        few = instances[:TRIED]
        texts = [self._generator.text(*one.args) for one in few]
        if None in texts:
            return
        expected = self._slowly(few)
        try:
            found = self._quickly(few, texts)
        except (RuntimeError, ValueError, TypeError, NotImplementedError, AttributeError) as error:
            found, reason = [], f"{type(error).__name__}: {error}"
        else:
            reason = "the texts differ"
        self._generator.usable = found == expected
        if found != expected:
            _logger.warning("texts are generated by lm-eval's own code, which is slower: %s", reason)

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
