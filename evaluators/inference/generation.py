"""Greedy generation with the texts of lm-eval's ``HFLM.generate_until``, without what that spends around the model.

Prompts are tokenized once, equal ones asked once, and what all begin with goes through the model once. A text that is
at its end leaves, and another one takes its place; texts are looked at only where there are stop sequences to find.
"""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Sequence
from functools import partial
from itertools import groupby
from typing import Any

import torch
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text

from mergesearch.evaluators.contract.token_budget import Budget, kept_tokens
from mergesearch.evaluators.inference.kv_cache import Decoder, Rows, Text, joined
from mergesearch.evaluators.inference.prefix_tree import shared_length

_NEUTRAL = {
    *("bos_token_id", "eos_token_id", "pad_token_id", "transformers_version", "_from_model_config", "use_cache"),
    *("do_sample", "temperature", "top_p", "top_k", "max_length", "max_new_tokens"),
    *("output_attentions", "output_hidden_states", "output_scores", "output_logits", "return_dict_in_generate"),
}
"""Of a model's generation config: what changes nothing in greedy generation to a given length."""


SHARED = 16
"""Prompts' common beginning is worth a call of its own from so many tokens on."""
REFILL = 4
"""Others join once a part, one in so many, of the rows is free: prompts go through the model better together."""


class Generator:
    """For one model, wrapped as ``_wrapped.wrap`` does; its weights may change between calls."""

    def __init__(self, wrapped: Any) -> None:
        self._wrapped = wrapped
        self._model = wrapped.model
        self._decoder = Decoder(self._model)
        self._ends = _ends(self._model)
        self._prompts: dict[str, list[int]] = {}
        self.usable: bool | None = None if self._possible() else False
        self.alone = not self._decoder.joins
        """Whether texts are generated in lm-eval's own batches, and what they begin with in each of them."""

    def _possible(self) -> bool:
        """Whether the model itself asks for nothing but the likeliest token."""
        settings = self._model.generation_config.to_diff_dict()
        takes = inspect.signature(self._model.forward).parameters
        return (
            not {key for key, value in settings.items() if value is not None} - _NEUTRAL
            and self._model.generation_config.use_cache is not False
            and self._wrapped.eot_token_id in self._ends
            and self._wrapped.think_end_token is None
            and {"past_key_values", "position_ids", "attention_mask"} <= set(takes)
        )

    def text(self, prompt: str, settings: dict[str, Any]) -> Text | None:
        """The prompt ready to be answered, or None where the settings ask for more than greedy generation."""
        kwargs = dict(normalize_gen_kwargs(settings, self._wrapped.max_gen_toks))
        stops = handle_stop_sequences(kwargs.pop("until", None), eos=None)
        most = int(kwargs.pop("max_gen_toks"))
        room = self._wrapped.max_length - most
        greedy = not kwargs.pop("do_sample", False) and not kwargs.pop("temperature", 0.0)
        if not greedy or kwargs or room <= 0:
            return None
        return Text(self._encoded(prompt)[-room:], most, tuple(stop for stop in stops if stop))

    def _encoded(self, prompt: str) -> list[int]:
        if prompt not in self._prompts:
            self._prompts[prompt] = self._wrapped.tok_batch_encode([prompt])[0][0].tolist()
        return self._prompts[prompt]

    def answer(self, texts: Sequence[Text], batch_size: int, budget: Budget) -> None:
        """Fills in ``said`` of each."""
        ordered = sorted(texts, key=lambda text: (text.most, text.stops, -len(text.prompt), text.prompt))
        for _, alike in groupby(ordered, key=lambda text: (text.most, text.stops)):
            self._fitted(list(alike), batch_size, budget)

    def _fitted(self, texts: Sequence[Text], batch_size: int, budget: Budget) -> None:
        rows = partial(self._rows, texts, batch_size, budget)
        budget.fitting(lambda: rows() == (1, 1), lambda: self._answer(texts, *rows()))

    def _rows(self, texts: Sequence[Text], batch_size: int, budget: Budget) -> tuple[int, int]:
        """How many begin together, and how many there are in all; texts: the longest prompts first."""
        begun, longest = budget.part(batch_size), len(texts[0].prompt) + texts[0].most
        return begun, max(begun, kept_tokens(budget, self._model.device) // longest)

    def _answer(self, texts: Sequence[Text], begun: int, most: int) -> None:
        for text in texts:
            text.said, text.sound = [], True
        with torch.no_grad():
            if self.alone:
                for start in range(0, len(texts), begun):
                    self._run(texts[start : start + begun], begun, begun)
            else:
                self._run(texts, begun, most)

    def spoken(self, text: Text) -> str:
        """The text before its first stop sequence."""
        spoken: str = self._wrapped.tok_decode([token for token in text.said if token not in self._ends])
        return str(postprocess_generated_text(spoken, list(text.stops), None))

    def _run(self, texts: Sequence[Text], begun: int, most: int) -> None:
        """Texts, the longest prompts first. begun, most: rows that begin together, and that there are in all."""
        prefix = None if self.alone else self._prefix(texts)
        waiting = deque(texts)
        rows: Rows | None = None
        while waiting or rows:
            free = _room(len(rows or ()), len(waiting), most)
            groups = [[waiting.popleft() for _ in range(count)] for count in _counts(free, begun)]
            parts = [rows, *(self._going(self._decoder.begin(group, prefix)) for group in groups)]
            rows = _together([part for part in parts if part])
            rows = self._going(self._decoder.step(rows)) if rows else None

    def _prefix(self, texts: Sequence[Text]) -> Any:
        """The keys and values of what all prompts begin with; None where that is not worth it."""
        prompts = [text.prompt for text in texts]
        shared = min(shared_length(min(prompts), max(prompts)), min(map(len, prompts)) - 1)
        return self._decoder.prefix(prompts[0][:shared]) if len(texts) > 1 and shared >= SHARED else None

    def _going(self, rows: Rows) -> Rows:
        """The rows whose texts are not at their end."""
        going = [n for n, text in enumerate(rows.texts) if not self._ended(text)]
        if len(going) < len(rows):
            rows.keep(going)
        return rows

    def _ended(self, text: Text) -> bool:
        return len(text.said) >= text.most or text.said[-1] in self._ends or not text.sound or self._stopped(text)

    def _stopped(self, text: Text) -> bool:
        """Whether a stop sequence was said, and as much after its beginning as the longest of them needs."""
        if not text.stops:
            return False
        longest = max(map(len, text.stops))
        recent = self._wrapped.tok_decode(text.said[-2 * longest - 8 :])
        if not any(stop in recent for stop in text.stops):
            return False
        whole = self._wrapped.tok_decode(text.said)
        places = [place for place in map(whole.find, text.stops) if place >= 0]
        return bool(places) and len(whole) - min(places) >= longest


def _ends(model: Any) -> frozenset[int]:
    """The tokens that end a text."""
    ends = model.generation_config.eos_token_id
    return frozenset(ends if isinstance(ends, list) else [] if ends is None else [ends])


def _room(rows: int, waiting: int, most: int) -> int:
    """How many texts are to begin now, 0 where they had better wait for company."""
    free = min(most - rows, waiting)
    return free if rows == 0 or free == waiting or free >= most / REFILL else 0


def _counts(all_: int, most: int) -> list[int]:
    """``all_`` in parts of ``most``."""
    return [min(most, all_ - begin) for begin in range(0, all_, most)]


def _together(parts: Sequence[Rows]) -> Rows | None:
    return joined(parts) if len(parts) > 1 else parts[0] if parts else None
