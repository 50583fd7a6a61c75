"""A model in memory as lm-eval's ``HFLM``: its tokenization, windows, chat template and generation."""

from __future__ import annotations

import copy
from typing import Any

from lm_eval.models.huggingface import HFLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from mergesearch.errors import UserError
from mergesearch.evaluators.contract.loaded_model import LoadedModel, tokenizer_of
from mergesearch.evaluators.inference.batch_plan import Request
from mergesearch.evaluators.lm_eval.command_line import as_command_line

OTHER_HEADS = ("Classification", "MaskedLM", "QuestionAnswering", "MultipleChoice", "PreTraining")


class _TokenizingHFLM(HFLM):  # type: ignore[misc]
    """HFLM whose ``loglikelihood`` returns the tokenized requests instead of running the model."""

    def _loglikelihood_tokens(self, requests: list[Any], **_: Any) -> list[Any]:
        return requests

    def limit_length(self, max_length: int) -> None:
        """Sets the maximum number of tokens of a sequence."""
        if max_length > self.max_length:
            raise UserError(f"max_length: {max_length} is more than the model's context of {self.max_length} tokens")
        self._max_length = max_length


def wrap(
    subject: LoadedModel, batch_size: int, max_length: int | None = None, add_bos_token: bool | None = None
) -> Any:
    """HFLM with the model in memory, and with a copy of the tokenizer, whose settings HFLM changes.

    Its ``loglikelihood`` returns the tokenized requests: [((context, continuation), context ids, continuation ids)].

    Raises:
        UserError: There is no tokenizer, the model is no causal language model, or ``max_length`` is more than its
            context.
    """
    # lm-eval decides by the type of the model, and takes a BERT with any head for a decoder.
    config: Any = subject.model.config
    is_causal = not str((config.architectures or [""])[0]).endswith(OTHER_HEADS)
    if is_causal:
        with as_command_line():
            tokenizer = copy.deepcopy(tokenizer_of(subject))  # without one, lm-eval looks for one itself
            hflm = _TokenizingHFLM(
                pretrained=subject.model, tokenizer=tokenizer, batch_size=batch_size, add_bos_token=add_bos_token
            )
    if not is_causal or hflm.backend != "causal":
        raise UserError(
            f"this task needs a causal language model, found {type(subject.model).__name__}; "
            "for a classifier use the evaluator classification"
        )
    if max_length is not None:
        hflm.limit_length(max_length)
    return hflm


def rolling_requests(hflm: Any, text: str) -> tuple[Request, ...]:
    """The text in windows of the model's context. Each token is scored once, as in ``HFLM.loglikelihood_rolling``."""
    windows = get_rolling_token_windows(
        token_list=hflm.tok_encode(text),
        prefix_token=hflm.prefix_token_id,
        max_seq_len=hflm.max_length,
        context_len=1,
    )
    pairs = (make_disjoint_window(window) for window in windows)
    return tuple(Request(tuple(context), tuple(continuation)) for context, continuation in pairs)


def chat_renderer(hflm: Any, template: bool | str) -> Any:
    """The function that renders messages, as with the command line's ``--apply_chat_template``."""
    try:
        hflm.chat_template(template)
    except (AttributeError, ValueError) as error:
        raise UserError(f"apply_chat_template: {error}") from error
    if not hflm.tokenizer.chat_template:
        raise UserError("apply_chat_template: the model's tokenizer has no chat template; remove the key")
    return hflm.apply_chat_template
