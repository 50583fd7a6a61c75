"""Greedy generation, with the texts of lm-eval's ``HFLM.generate_until`` but in less time.

Prompts are tokenized once, and a prefix that all prompts have in common goes through the model once. A finished text
leaves the batch, and another one takes its row. Texts are decoded only if there are stop sequences to look for.
"""

from __future__ import annotations

import inspect
import math
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import torch
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text

from mergesearch.evaluators.contract.token_budget import Budget, cache_tokens, call_tokens
from mergesearch.evaluators.inference.kv_cache import Completion, Decoder, DecodingBatch, concatenate
from mergesearch.evaluators.inference.prefix_tree import common_prefix_length
from mergesearch.steps import part, reached

IGNORED_SETTINGS = {
    *("bos_token_id", "eos_token_id", "pad_token_id", "transformers_version", "_from_model_config", "use_cache"),
    *("do_sample", "temperature", "top_p", "top_k", "max_length", "max_new_tokens"),
    *("output_attentions", "output_hidden_states", "output_scores", "output_logits", "return_dict_in_generate"),
}
"""Keys of a model's generation config that do not change greedy generation of a given number of tokens."""
MIN_SHARED_TOKENS = 16
"""A common prefix of the prompts gets a call of its own if it has at least so many tokens."""
REFILL_DIVISOR = 4
"""New prompts start when at least one in so many rows is free, because prompts are faster together."""


class GreedyGenerator:
    """Generates with one model, whose weights may change between calls.

    Attributes:
        is_usable: Whether this gives the texts of lm-eval's own code. None: the caller has to find out.
        separate_batches: Whether batches are those of lm-eval. Otherwise a free row is given to the next prompt, and a
            common prefix of the prompts goes through the model once.
    """

    def __init__(self, hflm: Any) -> None:
        """hflm: The model as ``lm_eval.hflm.wrap`` returns it."""
        self._hflm = hflm
        self._model = hflm.model
        self._decoder = Decoder(self._model)
        end_tokens = self._model.generation_config.eos_token_id
        self._end_tokens = frozenset(
            end_tokens if isinstance(end_tokens, list) else [] if end_tokens is None else [end_tokens]
        )
        self._prompts: dict[str, list[int]] = {}
        self.is_usable: bool | None = None if self._is_plain_greedy() else False
        self.separate_batches = not self._decoder.can_concatenate

    def _is_plain_greedy(self) -> bool:
        """Whether the model's own settings ask for nothing but the likeliest token."""
        settings = self._model.generation_config.to_diff_dict()
        parameters = inspect.signature(self._model.forward).parameters
        return (
            not {key for key, value in settings.items() if value is not None} - IGNORED_SETTINGS
            and self._model.generation_config.use_cache is not False
            and self._hflm.eot_token_id in self._end_tokens
            and self._hflm.think_end_token is None
            and {"past_key_values", "position_ids", "attention_mask"} <= set(parameters)
        )

    def completion(self, prompt: str, settings: dict[str, Any]) -> Completion | None:
        """The prompt, ready for ``generate``. None if the settings ask for more than greedy generation."""
        kwargs = dict(normalize_gen_kwargs(settings, self._hflm.max_gen_toks))
        stop = handle_stop_sequences(kwargs.pop("until", None), eos=None)
        max_tokens = int(kwargs.pop("max_gen_toks"))
        max_prompt = self._hflm.max_length - max_tokens
        is_greedy = not kwargs.pop("do_sample", False) and not kwargs.pop("temperature", 0.0)
        if not is_greedy or kwargs or max_prompt <= 0:
            return None
        return Completion(self._tokenize(prompt)[-max_prompt:], max_tokens, tuple(each for each in stop if each))

    def has_tokens(self, prompt: str) -> bool:
        """Whether there is something to generate after."""
        return bool(self._tokenize(prompt))

    def _tokenize(self, prompt: str) -> list[int]:
        if prompt not in self._prompts:
            self._prompts[prompt] = self._hflm.tok_batch_encode([prompt])[0][0].tolist()
        return self._prompts[prompt]

    def generate(self, completions: Sequence[Completion], batch_size: int, budget: Budget) -> None:
        """Generates the tokens of each completion, with fewer rows at once if they do not fit into memory."""
        ordered = sorted(completions, key=lambda each: (each.max_tokens, each.stop, -len(each.prompt), each.prompt))
        for _, group in groupby(ordered, key=lambda each: (each.max_tokens, each.stop)):
            together = list(group)
            with part(len(together) / len(ordered)):
                self._generate_group(together, batch_size, budget)

    def _generate_group(self, completions: Sequence[Completion], batch_size: int, budget: Budget) -> None:
        def row_counts() -> tuple[int, int]:
            """The number of rows that start together, and the maximum in all."""
            started, longest = budget.scaled(batch_size), len(completions[0].prompt) + completions[0].max_tokens
            size = None if self.separate_batches else self._decoder.token_bytes
            return started, max(started, cache_tokens(budget, self._model.device, size) // longest)

        budget.retry_smaller(
            is_smallest=lambda: row_counts() == (1, 1), attempt=lambda: self._attempt(completions, *row_counts())
        )

    def _attempt(self, completions: Sequence[Completion], started: int, max_rows: int) -> None:
        for completion in completions:
            completion.tokens, completion.is_valid = [], True
        with torch.no_grad():
            if self.separate_batches:
                for first in range(0, len(completions), started):
                    batch = completions[first : first + started]
                    with part(len(batch) / len(completions)):
                        self._run(batch, started, started)
            else:
                self._run(completions, started, max_rows)

    def text(self, completion: Completion) -> str:
        """The generated text, up to the first stop sequence."""
        tokens = [token for token in completion.tokens if token not in self._end_tokens]
        text: str = self._hflm.tok_decode(tokens)
        return str(postprocess_generated_text(text, list(completion.stop), None))

    def _run(self, completions: Sequence[Completion], started: int, max_rows: int) -> None:
        """Generates until all are finished. completions: those with the longest prompts first."""
        prefix = None if self.separate_batches else self._common_prefix(completions)
        waiting = deque(completions)
        running: DecodingBatch | None = None
        while waiting or running:
            new = _rows_to_start(len(running or ()), len(waiting), max_rows)
            batches = [running] if running else []
            for group in self._groups([waiting.popleft() for _ in range(new)], started):
                batches.append(self._without_finished(self._decoder.start(group, prefix)))
            batches = [batch for batch in batches if batch]
            running = (concatenate(batches) if len(batches) > 1 else batches[0]) if batches else None
            running = self._without_finished(self._decoder.step(running)) if running else None
            reached(1 - (len(waiting) + _work_left(running)) / len(completions))

    def _groups(self, completions: Sequence[Completion], size: int) -> Iterator[list[Completion]]:
        """Those that start together, ``size`` at most: another call may be less work than padding."""
        most = math.inf if self.separate_batches else call_tokens(self._model.device)
        group: list[Completion] = []
        padding = 0
        for completion in completions:
            padding += len(group[0].prompt) - len(completion.prompt) if group else 0
            if len(group) == size or padding > most:
                yield group
                group, padding = [], 0
            group.append(completion)
        if group:
            yield group

    def _common_prefix(self, completions: Sequence[Completion]) -> Any:
        """The cache of what all prompts begin with. None if that is too short to save time."""
        prompts = [completion.prompt for completion in completions]
        # All prompts have in common what the first and the last of them in lexicographic order have.
        shared = min(common_prefix_length(min(prompts), max(prompts)), min(map(len, prompts)) - 1)
        return self._decoder.prefix(prompts[0][:shared]) if len(prompts) > 1 and shared >= MIN_SHARED_TOKENS else None

    def _without_finished(self, batch: DecodingBatch) -> DecodingBatch:
        """Removes the rows whose completions are finished."""
        recent = self._recent_texts(batch.completions)
        pairs = enumerate(zip(batch.completions, recent, strict=True))
        unfinished = [n for n, (completion, text) in pairs if not self._is_finished(completion, text)]
        if len(unfinished) < len(batch):
            batch.keep(unfinished)
        return batch

    def _recent_texts(self, completions: Sequence[Completion]) -> list[str]:
        """The last texts of completions with the same stop sequences, long enough for these. Empty without them."""
        texts = [""] * len(completions)
        if not completions or not completions[0].stop:
            return texts
        count = 2 * max(map(len, completions[0].stop)) + 8
        by_length: dict[int, list[int]] = {}
        for n, completion in enumerate(completions):
            by_length.setdefault(min(len(completion.tokens), count), []).append(n)
        for length, rows in by_length.items():
            # Of lists, the tokenizer would check every token.
            tokens = np.array([completions[n].tokens[-length:] for n in rows])
            for n, text in zip(rows, self._hflm.tok_decode(tokens), strict=True):
                texts[n] = text
        return texts

    def _is_finished(self, completion: Completion, recent: str) -> bool:
        return (
            len(completion.tokens) >= completion.max_tokens
            or completion.tokens[-1] in self._end_tokens
            or not completion.is_valid
            or self._is_stopped(completion, recent)
        )

    def _is_stopped(self, completion: Completion, recent: str) -> bool:
        """Whether a stop sequence was generated, and after its start as many characters as the longest one has."""
        if not any(stop in recent for stop in completion.stop):
            return False
        longest = max(map(len, completion.stop))
        text = self._hflm.tok_decode(completion.tokens)
        starts = [start for start in map(text.find, completion.stop) if start >= 0]
        return bool(starts) and len(text) - min(starts) >= longest


def _work_left(batch: DecodingBatch | None) -> float:
    """Of the completions of a batch, in whole completions, as if all were as far as the first, and none ended early."""
    first = batch.completions[0] if batch else None
    return len(batch) * (1 - len(first.tokens) / first.max_tokens) if batch and first else 0.0


def _rows_to_start(running: int, waiting: int, max_rows: int) -> int:
    """How many completions start now. 0: wait until more rows are free."""
    free = min(max_rows - running, waiting)
    return free if running == 0 or free == waiting or free >= max_rows / REFILL_DIVISOR else 0
