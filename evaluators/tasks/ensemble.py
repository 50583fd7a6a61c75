"""Several models as one whose outputs are the average of theirs: the costly thing that a merge tries to be.

At every position the next token's probability is the mean of the models' (a mixture, as in Wortsman et al.,
arXiv:2203.05482, section 2, where it is the ensemble that soups are compared with); so is a label's. Averaged
probabilities, not logits: that is what drawing one of the models at random predicts, and no model's scale counts more.
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

from mergesearch.evaluators.contract.evaluator import LoadedModel


class Ensemble(PreTrainedModel, GenerationMixin):  # type: ignore[misc]
    """A model of transformers whose logits are log((1/n) Σ softmax(logits of member i)), float32.

    The members share a vocabulary, or a list of labels. It keeps no keys and values: generation runs the whole text
    anew for each token.
    """

    base_model_prefix = ""
    main_input_name = "input_ids"
    # It has no attention of its own: its members run with theirs.
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = _supports_attention_backend = True

    def __init__(self, members: Sequence[nn.Module]) -> None:
        first: Any = members[0]
        super().__init__(copy.deepcopy(first.config))
        self.members = nn.ModuleList(members)
        if hasattr(first, "generation_config"):  # not a classifier
            self.generation_config = copy.deepcopy(first.generation_config)
            self.generation_config.use_cache = False
        # With the members' signature: transformers and lm-eval look there for what a model takes.
        self.forward = wraps(first.forward)(partial(_averaged, members))
        self.eval()

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """See transformers; without a cache of keys and values."""
        return super().generate(*args, **{**kwargs, "use_cache": False})


def _averaged(members: Sequence[nn.Module], *args: Any, **kwargs: Any) -> CausalLMOutputWithPast:
    if "use_cache" in kwargs:
        kwargs["use_cache"] = False
    logits = [member(*args, **kwargs).logits.float().log_softmax(-1) for member in members]
    return CausalLMOutputWithPast(logits=torch.stack(logits).logsumexp(0) - math.log(len(logits)))


def average(members: Sequence[nn.Module], tokenizer: Any) -> LoadedModel:
    """The ensemble of live models, for evaluators whose ``averages`` is true."""
    return LoadedModel(Ensemble(members), tokenizer)
