"""Whether models compute alike: their ``config.json``, compared after transformers has filled in its defaults.

Two models whose tensors have the same names and shapes can still be different functions of them. A merge has one
config, the template's, so that the tensors of other models mean something else there.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from mergesearch.errors import UserError
from mergesearch.merge_ops.checkpoint.checkpoint import Checkpoint
from mergesearch.merge_ops.checkpoint.config_sections import Json
from mergesearch.text import as_line

Differences = dict[str, tuple[Any, Any]]
"""The values of two models by key; None where a model has none."""

LAYER_COUNT = re.compile(r"^(?:num_hidden_layers|n_layers?|num_layers|(?:num_)?(?:encoder|decoder)_layers)$")
NEUTRAL = re.compile(
    r"^(?:_.*|transformers_version|torch_dtype|dtype|architectures|auto_map|model_name|name|license|language|prefix"
    r"|finetuning_task|task_specific_params|tokenizer_class|processor_class|unsloth\w*|quantization_config"
    r"|use_cache|return_dict|return_dict_in_generate|output_\w+|torchscript|gradient_checkpointing\w*|pretraining_tp"
    r"|chunk_size_feed_forward|attn_implementation|trust_remote_code|initializer_\w+|init_\w+|\w*_init_(?:std|range)"
    r"|\w*drop(?:out)?(?:_\w+)?|\w*_pdrop|layerdrop|\w*_layerdrop|\w*loss\w*|\w*jitter\w*|label_smoothing\w*"
    r"|apply_spec_augment|mask_(?:time|feature)_\w+|id2label|label2id|num_labels)$"
)
"""Keys that do not change what a model computes outside training; labels are compared on their own."""
HANDLED = re.compile(r"^(?:tie_word_embeddings|vocab_size)$")
"""Keys whose effect shows in the tensors, which are compared themselves."""
USAGE = re.compile(
    r"^(?:(?:bos|eos|pad|sep|cls|mask|unk|decoder_start|forced_[be]os)_token_id|(?:min|max)_(?:length|new_tokens)"
    r"|do_sample|early_stopping|num_beams|num_beam_groups|diversity_penalty|temperature|top_k|top_p|typical_p"
    r"|(?:repetition|length)_penalty|(?:encoder_)?no_repeat_ngram_size|bad_words_ids|num_return_sequences"
    r"|remove_invalid_values|exponential_decay_length_penalty|(?:begin_)?suppress_tokens|forced_decoder_ids)$"
)
"""Ids of special tokens and settings of generation: how a model is used, not what it computes."""
MEANINGLESS = re.compile(
    r"(?:^|\.)(?:model_type|hidden_size|\w*hidden_act(?:ivation)?|hidden_activation|activation(?:_function)?"
    r"|feed_forward_proj|dense_act_fn|is_gated_act|(?:num_|encoder_|decoder_)?(?:attention_)?heads|n_heads?"
    r"|num_(?:attention_|key_value_|kv_)?heads|num_key_value_heads|multi_query|head_dim|d_kv|position_embedding_type"
    r"|\w*norm_type|normalization|do_layer_norm_before|normalize_before|use_parallel_residual|parallel_attn|alibi)$"
)
"""Keys with which the same tensors have another layout or are part of another function: no merge makes sense."""
SHOWN = 60


def config_differences(one: Checkpoint, two: Checkpoint, with_usage: bool = False) -> Differences:
    """Returns the keys of ``config.json`` in which two models compute otherwise; keys of sections have dots.

    Defaults count as written, and old forms as new ones. Empty if one of the models has no config.

    Args:
        one: a model.
        two: a model.
        with_usage: compare ids of special tokens and settings of generation too.
    """
    if not (one.has_config and two.has_config):
        return {}
    raw = [dict(_flat(model.config, with_usage)) for model in (one, two)]
    if raw[0] == raw[1]:
        return {}
    filled = [dict(_flat(config, with_usage)) for config in _of_one_type(_filled(one.config), _filled(two.config))]
    pairs = {key: (filled[0].get(key), filled[1].get(key)) for key in sorted({*filled[0], *filled[1]})}
    return {key: (a, b) for key, (a, b) in pairs.items() if a != b}


def check_configs(template: Checkpoint, others: Sequence[Checkpoint], lenient: bool, same_depth: bool) -> list[str]:
    """Compares the configs of a merge's models with that of the template, which is the result's.

    Args:
        template: the template.
        others: the other models.
        lenient: whether the recipe says ``on_config_mismatch: warn``.
        same_depth: whether the result has the template's layers. Otherwise keys by layer may differ.

    Returns:
        A warning for each model that computes otherwise.

    Raises:
        UserError: a merge would be meaningless, and the recipe does not say ``on_config_mismatch: warn``.
    """
    warnings = []
    for other in others:
        found = config_differences(template, other)
        found = found if same_depth else {key: pair for key, pair in found.items() if not _is_by_layer(key, pair)}
        meaningless = {key: pair for key, pair in found.items() if MEANINGLESS.search(key)}
        if meaningless and not lenient:
            raise UserError(
                f"{other.reference}: config.json: its tensors are not of the same kind as those of "
                f"{template.reference}: {_in_words(meaningless)}; a merge has one config, so that such models cannot "
                "be merged; `on_config_mismatch: warn` in the recipe merges them nevertheless"
            )
        if found:
            warnings.append(
                f"{other.reference}: config.json differs from that of {template.reference} in {_in_words(found)}; "
                f"the result computes as {template.reference}"
            )
    return warnings


def _in_words(differences: Differences) -> str:
    """Returns the keys with the template's and the other's values."""
    return ", ".join(f"{key} ({_as_json(b)}, not {_as_json(a)})" for key, (a, b) in sorted(differences.items()))


def _as_json(value: Any) -> str:
    return as_line(json.dumps(value), SHOWN)


def _is_by_layer(key: str, pair: tuple[Any, Any]) -> bool:
    last = key.rpartition(".")[2]
    return bool(LAYER_COUNT.match(last)) or all(isinstance(value, list) for value in pair)


def _of_one_type(one: Json, two: Json) -> tuple[Json, Json]:
    """Returns the configs; of a model with images and a model of text, the parts that are of one type."""
    if one.get("model_type") != two.get("model_type"):
        for first, second, is_first in ((one, two, True), (two, one, False)):
            section, kind = first.get("text_config"), second.get("model_type")
            if isinstance(section, dict) and section.get("model_type") in (kind, f"{kind}_text"):
                section = {**section, "model_type": kind}
                return (section, second) if is_first else (second, section)
    return one, two


def _flat(config: Mapping[str, Any], with_usage: bool, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if NEUTRAL.match(key) or HANDLED.match(key) or (USAGE.match(key) and not with_usage):
            continue
        if isinstance(value, dict) and "config" in key:
            yield from _flat(value, with_usage, f"{prefix}{key}.")
        elif isinstance(value, dict) and key.startswith("rope_"):
            # "type" is the old name of "rope_type".
            yield f"{prefix}{key}", {k: v for k, v in value.items() if k != "type" or "rope_type" not in value}
        else:
            yield f"{prefix}{key}", value


def _filled(config: Mapping[str, Any]) -> Json:
    return _with_defaults(json.dumps(config, sort_keys=True))


@lru_cache(maxsize=64)
def _with_defaults(config: str) -> Json:
    """Returns a config as transformers completes it, or as it is if transformers does not know its type."""
    raw: Json = json.loads(config)
    from transformers import CONFIG_MAPPING

    try:
        complete = CONFIG_MAPPING[raw["model_type"]].from_dict(dict(raw)).to_dict()
        filled: Json = json.loads(json.dumps(complete, default=str))
    except Exception:  # Whatever transformers makes of it: the keys are compared as they are written.
        return raw
    return filled
