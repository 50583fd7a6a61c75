"""Tiny models of many families of transformers, and the layouts in which their files are found."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers as t
from safetensors.torch import load_file, save_file
from torch import Tensor

from ...tolerances import aligned

Tensors = dict[str, Tensor]
Layout = Callable[[Any, Tensors], Tensors]
"""From the live model and the tensors that ``save_pretrained`` writes to the tensors of the file."""

SMALL = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
TOWER = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
KEYS = {**SMALL, "num_key_value_heads": 1, "max_position_embeddings": 32}
IMAGE = {"image_size": 16, "patch_size": 8}
GPT = {"vocab_size": 40, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32}
SPEECH = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "conv_dim": (8, 8),
    "conv_stride": (2, 2),
    "conv_kernel": (3, 3),
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
    "vocab_size": 40,
}
SEQ2SEQ = {
    "vocab_size": 40,
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
}
MROPE = {"rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]}}
BACKBONE = {"num_key_value_heads": 1, "head_dim": 8, "max_position_embeddings": 32}


# Layouts


def as_saved(_: Any, tensors: Tensors) -> Tensors:
    return tensors


def as_live(model: Any, _: Tensors) -> Tensors:
    """The model's own names, and every copy of tied tensors."""
    return dict(model.state_dict())


def bare(model: Any, tensors: Tensors) -> Tensors:
    """The names without the prefix of the base model."""
    return {name.removeprefix(f"{model.base_model_prefix}."): value for name, value in tensors.items()}


def with_prefix(prefix: str) -> Layout:
    return lambda _, tensors: {f"{prefix}{name}": value for name, value in tensors.items()}


def renamed(*pairs: tuple[str, str]) -> Layout:
    def layout(_: Any, tensors: Tensors) -> Tensors:
        for old, new in pairs:
            tensors = {name.replace(old, new): value for name, value in tensors.items()}
        return tensors

    return layout


def extra(**more: Tensor) -> Layout:
    """Tensors that the model does not use. Two underscores stand for a dot."""
    return lambda _, tensors: {**tensors, **{name.replace("__", "."): value for name, value in more.items()}}


def without(*parts: str) -> Layout:
    return lambda _, tensors: {n: value for n, value in tensors.items() if not any(part in n for part in parts)}


def copied(source: str, *targets: str) -> Layout:
    return lambda _, tensors: {**tensors, **dict.fromkeys(targets, tensors[source])}


def moved(source: str, target: str) -> Layout:
    return lambda _, tensors: {target if name == source else name: value for name, value in tensors.items()}


def untied(name: str) -> Layout:
    """A copy of a tied tensor that is not equal."""
    return lambda model, tensors: {**tensors, name: model.state_dict()[name] + 0.1}


def chained(*layouts: Layout) -> Layout:
    def layout(model: Any, tensors: Tensors) -> Tensors:
        for each in layouts:
            tensors = each(model, tensors)
        return tensors

    return layout


# Inputs

IDS = torch.arange(3, 19).view(2, 8)
TEXT = {"input_ids": IDS}
PAIR = {"input_ids": IDS, "decoder_input_ids": IDS[:, :5]}
PIXELS = {"pixel_values": torch.linspace(-1, 1, 2 * 3 * 16 * 16).view(2, 3, 16, 16)}
SOUND = {"input_values": torch.linspace(-1, 1, 400).sin().view(2, 200)}
MEL = {"input_features": torch.linspace(-1, 1, 8 * 32).view(1, 8, 32), "decoder_input_ids": IDS[:1, :5]}


@dataclass(frozen=True)
class Family:
    """A model, what it is asked, and the layouts of the base's file and of the two fine-tunes' files."""

    make: Callable[[], Any]
    ask: Mapping[str, Tensor] = field(default_factory=lambda: TEXT)
    layouts: tuple[Layout, Layout, Layout] = (as_saved, as_saved, as_saved)


GAMMA = renamed(("LayerNorm.weight", "LayerNorm.gamma"), ("LayerNorm.bias", "LayerNorm.beta"))
WEIGHT_G = renamed(("parametrizations.weight.original0", "weight_g"), ("parametrizations.weight.original1", "weight_v"))
MASK = torch.ones(1, 1, 32, 32).tril()


def masks(prefix: str, key: str, dtype: torch.dtype = torch.float32) -> Layout:
    """Causal masks as buffers of both layers."""
    names = [f"{prefix}.{layer}.{key}" for layer in range(2)]
    buffers = {f"{name}.bias": MASK.to(dtype) for name in names} | {
        f"{name}.masked_bias": torch.tensor(-1e4) for name in names
    }
    return lambda _, tensors: {**tensors, **buffers}


FREQUENCIES = {f"model.layers.{layer}.self_attn.rotary_emb.inv_freq": torch.rand(4) for layer in range(2)}
POSITIONS = torch.arange(512)[None]
WORDS = "bert.embeddings.word_embeddings.weight"
MTP = extra(mtp__layers__0__proj__weight=torch.rand(4, 4), model__layers__2__mlp__down_proj__weight=torch.rand(16, 24))


def pixtral_like(kind: str, text: Any, **more: Any) -> Callable[[], Any]:
    config = getattr(t, f"{kind}Config")
    return lambda: getattr(t, f"{kind}ForConditionalGeneration")(config(text_config=text, **more))


def t5() -> Any:
    config = t.T5Config(vocab_size=40, d_model=16, d_kv=8, d_ff=24, num_layers=1, num_decoder_layers=2, num_heads=2)
    return t.T5ForConditionalGeneration(config)


def whisper() -> Any:
    sizes = {key: value for key, value in SEQ2SEQ.items() if key != "max_position_embeddings"}
    limits = {"max_source_positions": 16, "max_target_positions": 16, "num_mel_bins": 8}
    return t.WhisperForConditionalGeneration(
        t.WhisperConfig(**sizes, **limits, suppress_tokens=None, begin_suppress_tokens=None)
    )


def llava() -> Any:
    tower = t.CLIPVisionConfig(**TOWER, **IMAGE)
    make = pixtral_like(
        "Llava", t.LlamaConfig(**KEYS), vision_config=tower, image_token_index=38, vision_feature_layer=-1
    )
    return make()


FAMILIES: dict[str, Family] = {
    "gpt2": Family(
        lambda: t.GPT2LMHeadModel(t.GPT2Config(**GPT)),
        layouts=(chained(bare, masks("h", "attn")), as_saved, copied("transformer.wte.weight", "lm_head.weight")),
    ),
    "gpt2-prefixed-base": Family(
        lambda: t.GPT2LMHeadModel(t.GPT2Config(**GPT)),
        layouts=(as_live, bare, moved("transformer.wte.weight", "lm_head.weight")),
    ),
    "bert-mlm": Family(
        lambda: t.BertForMaskedLM(t.BertConfig(**SMALL)),
        layouts=(
            chained(GAMMA, copied(WORDS, "cls.predictions.decoder.weight")),
            as_saved,
            chained(as_live, extra(bert__embeddings__position_ids=POSITIONS)),
        ),
    ),
    "bert-mlm-of-pretraining": Family(
        lambda: t.BertForMaskedLM(t.BertConfig(**SMALL)),
        layouts=(
            extra(bert__pooler__dense__weight=torch.rand(16, 16), cls__seq_relationship__bias=torch.rand(2)),
            as_saved,
            GAMMA,
        ),
    ),
    "minilm": Family(
        lambda: t.BertModel(t.BertConfig(**SMALL)),
        layouts=(chained(without("pooler"), with_prefix("bert.")), without("pooler"), as_saved),
    ),
    "bert-pooled-base": Family(
        lambda: t.BertModel(t.BertConfig(**SMALL)), layouts=(as_saved, without("pooler"), with_prefix("bert."))
    ),
    "distilbert": Family(
        lambda: t.DistilBertForMaskedLM(
            t.DistilBertConfig(vocab_size=40, dim=16, hidden_dim=24, n_layers=2, n_heads=2)
        ),
        layouts=(as_live, as_saved, chained(as_saved, bare)),
    ),
    "roberta": Family(
        lambda: t.RobertaForMaskedLM(t.RobertaConfig(**SMALL)),
        layouts=(as_live, as_saved, extra(roberta__embeddings__position_ids=POSITIONS)),
    ),
    "xlm-roberta": Family(
        lambda: t.XLMRobertaModel(t.XLMRobertaConfig(**SMALL)), layouts=(as_saved, bare, without("pooler"))
    ),
    "electra": Family(
        lambda: t.ElectraForMaskedLM(t.ElectraConfig(**SMALL, embedding_size=8)), layouts=(as_live, as_saved, GAMMA)
    ),
    "albert": Family(
        lambda: t.AlbertForMaskedLM(t.AlbertConfig(**SMALL, embedding_size=8)), layouts=(as_live, as_saved, as_saved)
    ),
    "deberta-v2": Family(
        lambda: t.DebertaV2ForMaskedLM(t.DebertaV2Config(**SMALL)), layouts=(as_live, as_saved, GAMMA)
    ),
    "mpnet": Family(
        lambda: t.MPNetModel(t.MPNetConfig(**SMALL)),
        layouts=(as_saved, with_prefix("mpnet."), extra(embeddings__position_ids=POSITIONS)),
    ),
    "modernbert": Family(
        lambda: t.ModernBertForMaskedLM(t.ModernBertConfig(**SMALL, pad_token_id=0)),
        layouts=(as_live, as_saved, as_saved),
    ),
    "xlnet": Family(
        lambda: t.XLNetLMHeadModel(t.XLNetConfig(vocab_size=40, d_model=16, n_layer=2, n_head=2, d_inner=24)),
        layouts=(as_live, as_saved, as_saved),
    ),
    "t5": Family(t5, PAIR, (as_live, as_saved, moved("shared.weight", "encoder.embed_tokens.weight"))),
    "t5-untied-model": Family(t5, PAIR, (as_live, untied("lm_head.weight"), as_saved)),
    "t5-untied-base": Family(t5, PAIR, (untied("lm_head.weight"), as_live, as_saved)),
    "bart": Family(
        lambda: t.BartForConditionalGeneration(t.BartConfig(**SEQ2SEQ)),
        PAIR,
        (as_live, as_saved, without("final_logits")),
    ),
    "mbart": Family(
        lambda: t.MBartForConditionalGeneration(t.MBartConfig(**SEQ2SEQ)), PAIR, (as_saved, as_live, as_saved)
    ),
    "marian": Family(
        lambda: t.MarianMTModel(t.MarianConfig(**SEQ2SEQ)), PAIR, (as_live, as_saved, without("embed_positions"))
    ),
    "bert2bert": Family(
        lambda: t.EncoderDecoderModel(
            t.EncoderDecoderConfig.from_encoder_decoder_configs(
                t.BertConfig(**SMALL), t.BertConfig(**SMALL), decoder_start_token_id=1, pad_token_id=0
            )
        ),
        PAIR,
        (as_live, as_saved, GAMMA),
    ),
    "whisper": Family(whisper, MEL, (as_live, as_saved, as_saved)),
    "whisper-untied-model": Family(whisper, MEL, (as_saved, untied("proj_out.weight"), as_live)),
    "whisper-untied-base": Family(whisper, MEL, (untied("proj_out.weight"), as_saved, as_live)),
    "bert-untied-model": Family(
        lambda: t.BertForMaskedLM(t.BertConfig(**SMALL)),
        layouts=(GAMMA, untied("cls.predictions.decoder.weight"), as_live),
    ),
    "gpt2-untied-model": Family(
        lambda: t.GPT2LMHeadModel(t.GPT2Config(**GPT)), layouts=(bare, untied("lm_head.weight"), as_live)
    ),
    "llama": Family(
        lambda: t.LlamaForCausalLM(t.LlamaConfig(**KEYS)),
        layouts=(chained(extra(**FREQUENCIES), MTP), bare, MTP),
    ),
    "llama-tied-and-untied": Family(
        lambda: t.LlamaForCausalLM(t.LlamaConfig(**KEYS, tie_word_embeddings=True)),
        layouts=(as_saved, as_live, chained(as_saved, bare)),
    ),
    "qwen2": Family(lambda: t.Qwen2ForCausalLM(t.Qwen2Config(**KEYS)), layouts=(as_saved, bare, as_live)),
    "gpt-neox": Family(
        lambda: t.GPTNeoXForCausalLM(t.GPTNeoXConfig(**SMALL)),
        layouts=(
            chained(
                masks("gpt_neox.layers", "attention", torch.bool),
                extra(gpt_neox__layers__0__attention__rotary_emb__inv_freq=torch.rand(2)),
            ),
            as_saved,
            bare,
        ),
    ),
    "bloom": Family(
        lambda: t.BloomForCausalLM(t.BloomConfig(vocab_size=40, hidden_size=16, n_layer=2, n_head=2)),
        layouts=(bare, as_live, as_saved),
    ),
    "falcon": Family(lambda: t.FalconForCausalLM(t.FalconConfig(**SMALL)), layouts=(as_live, as_saved, as_saved)),
    "phi": Family(lambda: t.PhiForCausalLM(t.PhiConfig(**SMALL)), layouts=(as_saved, extra(**FREQUENCIES), bare)),
    "opt": Family(
        lambda: t.OPTForCausalLM(
            t.OPTConfig(
                vocab_size=40,
                hidden_size=16,
                ffn_dim=24,
                num_hidden_layers=2,
                num_attention_heads=2,
                word_embed_proj_dim=16,
                max_position_embeddings=32,
            )
        ),
        layouts=(bare, as_live, as_saved),
    ),
    "mamba": Family(
        lambda: t.MambaForCausalLM(t.MambaConfig(vocab_size=40, hidden_size=16, state_size=4, num_hidden_layers=2)),
        layouts=(as_live, as_saved, as_saved),
    ),
    "mixtral": Family(
        lambda: t.MixtralForCausalLM(t.MixtralConfig(**KEYS, head_dim=8, num_local_experts=3)),
        layouts=(as_saved, bare, as_saved),
    ),
    "qwen2-moe": Family(
        lambda: t.Qwen2MoeForCausalLM(
            t.Qwen2MoeConfig(
                **KEYS,
                moe_intermediate_size=12,
                shared_expert_intermediate_size=12,
                num_experts=3,
                num_experts_per_tok=2,
            )
        ),
        layouts=(as_saved, bare, extra(mtp__norm__weight=torch.rand(16))),
    ),
    "qwen2-vl": Family(
        lambda: t.Qwen2VLForConditionalGeneration(
            t.Qwen2VLConfig(
                text_config={**KEYS, **MROPE, "bos_token_id": 1, "eos_token_id": 2},
                vision_config={"depth": 1, "embed_dim": 16, "hidden_size": 16, "num_heads": 2},
                image_token_id=38,
                video_token_id=39,
                vision_start_token_id=37,
                vision_end_token_id=36,
            )
        ),
        layouts=(as_saved, as_live, as_saved),
    ),
    "qwen2.5-vl": Family(
        lambda: t.Qwen2_5_VLForConditionalGeneration(
            t.Qwen2_5_VLConfig(
                text_config={**KEYS, **MROPE, "bos_token_id": 1, "eos_token_id": 2},
                vision_config={
                    "depth": 1,
                    "hidden_size": 16,
                    "intermediate_size": 24,
                    "num_heads": 2,
                    "out_hidden_size": 16,
                    "fullatt_block_indexes": [0],
                },
                image_token_id=38,
                video_token_id=39,
                vision_start_token_id=37,
                vision_end_token_id=36,
            )
        ),
        layouts=(as_live, as_saved, as_saved),
    ),
    "llava": Family(
        llava,
        layouts=(as_saved, as_live, as_live),
    ),
    "llava-new-base": Family(
        llava,
        layouts=(as_live, as_saved, as_live),
    ),
    "gemma3": Family(
        pixtral_like(
            "Gemma3",
            {**SMALL, **BACKBONE, "sliding_window": 8},
            vision_config={**TOWER, **IMAGE},
            mm_tokens_per_image=4,
            image_token_index=38,
            boi_token_index=36,
            eoi_token_index=37,
        ),
        layouts=(as_saved, as_live, as_saved),
    ),
    "clip": Family(
        lambda: t.CLIPModel(
            t.CLIPConfig(
                text_config={**TOWER, "vocab_size": 40, "max_position_embeddings": 32, "eos_token_id": 2},
                vision_config={**TOWER, **IMAGE},
                projection_dim=8,
            )
        ),
        {**TEXT, **PIXELS},
        (
            extra(
                text_model__embeddings__position_ids=POSITIONS, vision_model__embeddings__position_ids=POSITIONS[:, :5]
            ),
            as_saved,
            as_live,
        ),
    ),
    "vit": Family(
        lambda: t.ViTForImageClassification(t.ViTConfig(**TOWER, **IMAGE, num_labels=3)),
        PIXELS,
        (as_saved, as_live, as_saved),
    ),
    "vit-model": Family(
        lambda: t.ViTModel(t.ViTConfig(**TOWER, **IMAGE)), PIXELS, (as_saved, without("pooler"), as_live)
    ),
    "dinov2": Family(lambda: t.Dinov2Model(t.Dinov2Config(**TOWER, **IMAGE)), PIXELS, (as_saved, as_live, as_saved)),
    "wav2vec2": Family(lambda: t.Wav2Vec2ForCTC(t.Wav2Vec2Config(**SPEECH)), SOUND, (WEIGHT_G, as_live, WEIGHT_G)),
    "hubert": Family(lambda: t.HubertModel(t.HubertConfig(**SPEECH)), SOUND, (as_live, WEIGHT_G, as_saved)),
}


def tuned(make: Callable[[], Any], seed: int) -> Any:
    """The model, or a fine-tune of it for other seeds than 0."""
    torch.manual_seed(0)
    model = make().eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def saved(folder: Path, model: Any, layout: Layout) -> str:
    """Writes the model's folder in a layout. Returns its path."""
    model.save_pretrained(folder)
    tensors = layout(model, load_file(folder / "model.safetensors"))
    # Each tensor has memory of its own.
    save_file(
        {n: v.detach().clone().contiguous() for n, v in tensors.items()}, folder / "model.safetensors", {"format": "pt"}
    )
    return str(folder)


def loaded(folder: str | Path) -> Any:
    """The model as transformers loads it."""
    kind = json.loads((Path(folder) / "config.json").read_text())["architectures"][0]
    return getattr(t, kind).from_pretrained(folder).eval()


def answers(model: Any, ask: Mapping[str, Tensor]) -> Tensor:
    """The first output that is not the pooler's."""
    with torch.no_grad():
        found = aligned(model)(**ask)
    return (
        found.logits
        if "logits" in found
        else found.logits_per_image
        if "logits_per_image" in found
        else found.last_hidden_state
    )
