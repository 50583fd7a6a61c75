"""Greedy generation with the texts of lm-eval's ``HFLM.generate_until``, without what that spends around the model.

Prompts are tokenized once, equal ones asked once, a text that is at its end leaves the batch, and texts are looked at
only where there are stop sequences to find.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import torch
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text
from torch import Tensor

_logger = logging.getLogger(__name__)
_NEUTRAL = {
    *("bos_token_id", "eos_token_id", "pad_token_id", "transformers_version", "_from_model_config", "use_cache"),
    *("do_sample", "temperature", "top_p", "top_k", "max_length", "max_new_tokens"),
    *("output_attentions", "output_hidden_states", "output_scores", "output_logits", "return_dict_in_generate"),
}
"""Of a model's generation config: what changes nothing in greedy generation to a given length."""


@dataclass
class Text:
    """A prompt's tokens, and what was said to it. sound: whether every logit that chose a token was a number."""

    prompt: list[int]
    most: int
    stops: tuple[str, ...]
    said: list[int] = field(default_factory=list)
    sound: bool = True


class Generator:
    """For one model, wrapped as ``_wrapped.wrap`` does; its weights may change between calls."""

    def __init__(self, wrapped: Any) -> None:
        self._wrapped = wrapped
        self._model = wrapped.model
        self._ends = _ends(self._model)
        self._prompts: dict[str, list[int]] = {}
        self.usable: bool | None = None if self._possible() else False

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

    def answer(self, texts: Sequence[Text], batch_size: int) -> None:
        """Fills in ``said`` of each."""
        ordered = sorted(texts, key=lambda text: (text.most, text.stops, -len(text.prompt), text.prompt))
        for _, alike in groupby(ordered, key=lambda text: (text.most, text.stops)):
            group = list(alike)
            for start in range(0, len(group), batch_size):
                with torch.no_grad():
                    self._run(group[start : start + batch_size])

    def spoken(self, text: Text) -> str:
        """The text before its first stop sequence."""
        spoken: str = self._wrapped.tok_decode([token for token in text.said if token not in self._ends])
        return str(postprocess_generated_text(spoken, list(text.stops), None))

    def _run(self, texts: list[Text]) -> None:
        from transformers import DynamicCache

        cache = DynamicCache(config=self._model.config)
        ids, mask = _padded([text.prompt for text in texts], self._model.device)
        positions = (mask.cumsum(1) - 1).clamp_min(0)
        while texts:
            logits = self._last_logits(ids, mask, positions, cache)
            tokens = _said(texts, logits)
            going = [n for n, text in enumerate(texts) if not self._ended(text)]
            if len(going) < len(texts):
                kept = torch.tensor(going, dtype=torch.int64, device=ids.device)
                texts = [texts[n] for n in going]
                mask, positions, tokens = mask[kept], positions[kept], tokens[kept]
                if texts:
                    cache.batch_select_indices(kept)
            ids, positions = tokens[:, None], positions[:, -1:] + 1
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)

    def _last_logits(self, ids: Tensor, mask: Tensor, positions: Tensor, cache: Any) -> Tensor:
        more = {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(self._model.forward).parameters else {}
        output = self._model(
            ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True, **more
        )
        logits: Tensor = output.logits[:, -1]
        return logits

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


def _padded(prompts: Sequence[list[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """(ids, attention mask), [prompts, length] int64, padded on the left."""
    length = max(map(len, prompts))
    ids = [[0] * (length - len(prompt)) + prompt for prompt in prompts]
    mask = [[0] * (length - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def _said(texts: Sequence[Text], logits: Tensor) -> Tensor:
    """Adds each text's likeliest token. [texts] int64."""
    tokens = logits.float().argmax(-1)
    sound = (~logits.isnan().any(-1)).tolist()
    for text, token, fine in zip(texts, tokens.tolist(), sound, strict=True):
        text.said.append(token)
        text.sound = text.sound and fine
    return tokens
