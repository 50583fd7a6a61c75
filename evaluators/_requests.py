"""The questions of one lm-eval task, put to one live model: encoded once, asked for every candidate."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from mergesearch.errors import UserError
from mergesearch.evaluators._base import LoadedModel
from mergesearch.evaluators._harness import rolling_requests, wrap
from mergesearch.evaluators._logprobs import Request, Scorer


class Requests:
    """A task's instances, encoded for one model and tokenizer."""

    def __init__(
        self,
        task: Any,
        instances: Sequence[Sequence[Any]],
        subject: LoadedModel,
        batch_size: int,
        max_length: int | None,
    ) -> None:
        """instances: for each document those of lm-eval, in the order of their ``idx``."""
        self._task = task
        self._instances = instances
        self.subject = subject
        self._wrapped = wrap(subject, batch_size, max_length)
        scored = [one for group in instances for one in group if one.request_type != "generate_until"]
        self._question = {id(one): number for number, one in enumerate(scored)}
        encoded = [self._encoded(one) for one in scored]
        self._scorer = Scorer(subject.model, encoded, self._wrapped.max_length, batch_size)

    def answer(self, numbers: Sequence[int], filter_name: str) -> dict[int, list[Any]]:
        """For each document asked, what the model answers to its instances, after the task's filter."""
        groups = {number: self._instances[number] for number in numbers}
        instances = [instance for group in groups.values() for instance in group]
        if not instances:
            return {}
        self._ask(instances)
        for one in self._task._filters:
            if one.name == filter_name:
                one.apply(instances)
        return {number: [one.filtered_resps[filter_name] for one in group] for number, group in groups.items()}

    def _ask(self, instances: Sequence[Any]) -> None:
        """Leaves the answers on their instances, as ``lm_eval.evaluate`` does."""
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

    def _generated(self, instances: Sequence[Any]) -> list[str]:
        if not instances:
            return []
        answers, sound = self._generate(instances)
        if not sound:
            lost = (instance for instance in instances if not self._generate([instance])[1])
            raise _not_a_number(next(lost, instances[0]))
        return answers

    def _generate(self, instances: Sequence[Any]) -> tuple[list[str], bool]:
        """The texts, and whether every logit that chose a token was a number: generation itself does not mind."""
        with _watched(self.subject.model) as sound:
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
