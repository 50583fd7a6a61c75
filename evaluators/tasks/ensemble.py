"""An ensemble: several models as one, whose output probabilities are the mean of theirs.

A merge tries to be as good as this, at the cost of one model. At every position the probability of the next token is
the mean of the models' (a mixture; Wortsman et al., arXiv:2203.05482, section 2, compare soups with it). The same holds
for the labels of classifiers. Probabilities are averaged, not logits: that is the prediction of a model drawn at
random, and no model counts more because its logits are larger.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from functools import partial, wraps
from typing import Any

import torch
from torch import nn
from transformers import GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from mergesearch.evaluators.contract.loaded_model import LoadedModel


class Ensemble(PreTrainedModel, GenerationMixin):  # type: ignore[misc]
    """A transformers model whose logits are log((1/n) Σ softmax(logits of member i)), float32.

    The members have the same vocabulary, or the same labels. There is no key-value cache: generation runs the whole
    text again for each token.
    """

    base_model_prefix = ""
    main_input_name = "input_ids"
    # The ensemble has no attention of its own; its members use theirs.
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = _supports_attention_backend = True

    def __init__(self, members: Sequence[nn.Module]) -> None:
        first: Any = members[0]
        super().__init__(copy.deepcopy(first.config))
        self.members = nn.ModuleList(members)
        if hasattr(first, "generation_config"):  # not a classifier
            self.generation_config = copy.deepcopy(first.generation_config)
            self.generation_config.use_cache = False
        # With the signature of the members, where transformers and lm-eval look for the arguments of a model.
        self.forward = wraps(first.forward)(partial(_mean_output, members))
        self.eval()

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """See transformers; without a key-value cache."""
        return super().generate(*args, **{**kwargs, "use_cache": False})


def _mean_output(members: Sequence[nn.Module], *args: Any, **kwargs: Any) -> CausalLMOutputWithPast:
    if "use_cache" in kwargs:
        kwargs["use_cache"] = False
    logprobs = [member(*args, **kwargs).logits.float().log_softmax(-1) for member in members]
    return CausalLMOutputWithPast(logits=torch.stack(logprobs).logsumexp(0) - math.log(len(logprobs)))


def average(members: Sequence[nn.Module], tokenizer: Any) -> LoadedModel:
    """The ensemble of models in memory, for evaluators whose ``averages`` is true."""
    return LoadedModel(Ensemble(members), tokenizer)
