"""A live model as lm-eval's HFLM: its tokenization, windows, chat template and text generation."""

from __future__ import annotations

import copy
from typing import Any

from lm_eval.models.huggingface import HFLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from mergesearch.errors import UserError
from mergesearch.evaluators.contract.evaluator import LoadedModel
from mergesearch.evaluators.inference.logprobs import Request
from mergesearch.evaluators.lm_eval.harness import as_command_line

_OTHER_HEADS = ("Classification", "MaskedLM", "QuestionAnswering", "MultipleChoice", "PreTraining")


class _Encoder(HFLM):  # type: ignore[misc]
    """HFLM whose ``loglikelihood`` stops after its own encoding."""

    def _loglikelihood_tokens(self, requests: list[Any], **_: Any) -> list[Any]:
        return requests


def wrap(
    subject: LoadedModel, batch_size: int, max_length: int | None = None, add_bos_token: bool | None = None
) -> Any:
    """HFLM around the live model, with a copy of the tokenizer, whose settings it changes.

    Its ``loglikelihood`` gives the encoded requests: [((context, continuation), context ids, continuation ids)].
    """
    # lm-eval goes by the kind of model, and takes a BERT with any head for a decoder.
    config: Any = subject.model.config
    if str((config.architectures or [""])[0]).endswith(_OTHER_HEADS):
        raise UserError(f"only causal language models can be scored, not {type(subject.model).__name__}")
    with as_command_line():
        tokenizer = copy.deepcopy(subject.tokenizer)
        wrapped = _Encoder(
            pretrained=subject.model, tokenizer=tokenizer, batch_size=batch_size, add_bos_token=add_bos_token
        )
    if wrapped.backend != "causal":
        raise UserError(f"only causal language models can be scored, not {type(subject.model).__name__}")
    if max_length is not None:
        if max_length > wrapped.max_length:
            raise UserError(f"max_length: {max_length} is more than the model's context of {wrapped.max_length} tokens")
        wrapped._max_length = max_length
    return wrapped


def rolling_requests(wrapped: Any, text: str) -> tuple[Request, ...]:
    """The whole text in windows of the model's length, each token scored once, as in ``HFLM.loglikelihood_rolling``."""
    windows = get_rolling_token_windows(
        token_list=wrapped.tok_encode(text),
        prefix_token=wrapped.prefix_token_id,
        max_seq_len=wrapped.max_length,
        context_len=1,
    )
    pairs = (make_disjoint_window(window) for window in windows)
    return tuple(Request(tuple(context), tuple(continuation)) for context, continuation in pairs)


def chat_renderer(wrapped: Any, template: bool | str) -> Any:
    """The function that renders messages as the command line's ``--apply_chat_template`` does."""
    try:
        wrapped.chat_template(template)
    except (AttributeError, ValueError) as error:
        raise UserError(f"apply_chat_template: {error}") from error
    if not wrapped.tokenizer.chat_template:
        raise UserError("apply_chat_template: the model's tokenizer has no chat template")
    return wrapped.apply_chat_template
