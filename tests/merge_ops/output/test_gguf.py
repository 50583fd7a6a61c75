"""GGUF files: read by the reader of gguf, and by transformers, which makes a model of them by code of its own."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    MistralConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from mergesearch.errors import UserError
from mergesearch.merge_ops.checkpoint.checkpoint import Checkpoint
from mergesearch.merge_ops.output.gguf import TYPES, convert, write_gguf
from mergesearch.merge_ops.output.gguf.architectures import Model
from mergesearch.merge_ops.output.gguf.vocabulary import SPLITS

TEXT = "the cat sat on the mat, and 12 other cats didn't. " * 4
SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
MODELS: dict[str, tuple[Callable[..., Any], int]] = {
    "llama": (LlamaConfig, 32),
    "mistral": (MistralConfig, 32),
    "qwen2": (Qwen2Config, 16),
    "qwen3": (Qwen3Config, 128),
}
"""By name the config, and the size of its heads: of Qwen, transformers takes it for granted in such files."""


def byte_level(*before: Any, use_regex: bool = True) -> Any:
    last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)
    return pre_tokenizers.Sequence([*before, last]) if before else last


def tokenizer(pre: Any = None, **options: Any) -> Any:
    """A small byte-level BPE, which puts <s> before a text."""
    made = Tokenizer(models.BPE(**options))
    made.pre_tokenizer, made.decoder = pre or byte_level(), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet)
    made.train_from_iterator([TEXT], trainer)
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>")


def save(folder: Path, make: Callable[..., Any] = LlamaConfig, own: Any = None, **options: Any) -> Path:
    """A model's folder, with embeddings for a few more tokens than the tokenizer has."""
    own = own or tokenizer()
    torch.manual_seed(0)
    config = make(**{**SIZES, "head_dim": 32, "vocab_size": len(own) + 4, "tie_word_embeddings": False, **options})
    model = AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    own.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("is_tied", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_transformers_continues_a_text_as_before(tmp_path: Path, name: str, is_tied: bool) -> None:
    make, head_size = MODELS[name]
    folder = save(tmp_path / "model", make, tie_word_embeddings=is_tied, head_dim=head_size)
    write_gguf(folder, tmp_path / "model.gguf", "f32")
    one = AutoModelForCausalLM.from_pretrained(folder).eval()
    two = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="model.gguf").eval()
    ids = torch.tensor([AutoTokenizer.from_pretrained(folder)("the cat and 12").input_ids])
    with torch.no_grad():
        torch.testing.assert_close(two(ids).logits, one(ids).logits, rtol=1e-4, atol=1e-4)
        continued = [each.generate(ids, max_new_tokens=12, do_sample=False, pad_token_id=1) for each in (one, two)]
    assert continued[0].tolist() == continued[1].tolist()


def test_the_tokenizer_is_the_same(tmp_path: Path) -> None:
    folder = save(tmp_path / "model")
    write_gguf(folder, tmp_path / "model.gguf")
    fields = gguf.GGUFReader(tmp_path / "model.gguf").fields
    own = AutoTokenizer.from_pretrained(folder)
    tokens = fields["tokenizer.ggml.tokens"].contents()
    assert tokens[: len(own)] == own.convert_ids_to_tokens(range(len(own)))
    assert tokens[len(own) :] == [f"[PAD{n}]" for n in range(len(own), len(own) + 4)]
    kinds = fields["tokenizer.ggml.token_type"].contents()
    assert kinds[:3] + kinds[-1:] == [gguf.TokenType.CONTROL] * 2 + [gguf.TokenType.NORMAL, gguf.TokenType.UNUSED]
    merges = json.loads((folder / "tokenizer.json").read_text())["model"]["merges"]
    assert fields["tokenizer.ggml.merges"].contents() == [" ".join(pair) for pair in merges]
    known = {
        key: fields[f"tokenizer.ggml.{key}"].contents() for key in ("bos_token_id", "add_bos_token", "add_eos_token")
    }
    assert known == {"bos_token_id": 0, "add_bos_token": True, "add_eos_token": False}


@pytest.mark.parametrize(("kind", "error"), [("f32", 0.0), ("f16", 2**-11), ("bf16", 2**-8), ("q8_0", 1 / 127)])
def test_each_tensor_is_that_of_the_folder(tmp_path: Path, kind: str, error: float) -> None:
    """As exactly as its type: q8_0 to half a step, of which the largest of a block has 127."""
    folder = save(tmp_path / "model", MistralConfig)
    write_gguf(folder, tmp_path / "model.gguf", kind)
    checkpoint, reader = Checkpoint(str(folder)), gguf.GGUFReader(tmp_path / "model.gguf")
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 2)
    model = Model.of(json.loads((folder / "config.json").read_text()))
    stored = {tensor.name: tensor for tensor in reader.tensors}
    assert len(stored) == len(checkpoint.tensors)
    for name in checkpoint.tensors:
        tensor = stored[str(names.get_name(name, (".weight", ".bias")))]
        expected = model.reordered(name, checkpoint.tensor(name)).numpy()
        found = gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape(expected.shape)
        assert tensor.tensor_type.name == ("F32" if expected.ndim == 1 else kind.upper())
        np.testing.assert_allclose(found, expected, rtol=0, atol=error * np.abs(expected).max())


def test_rows_that_q8_0_cannot_take_are_f16(tmp_path: Path) -> None:
    write_gguf(save(tmp_path / "model", intermediate_size=40), tmp_path / "model.gguf", "q8_0")
    types = {each.name: each.tensor_type.name for each in gguf.GGUFReader(tmp_path / "model.gguf").tensors}
    assert types["blk.0.ffn_down.weight"] == "F16"
    assert types["blk.0.ffn_up.weight"] == "Q8_0"


def test_llama_3_1_has_the_factors_of_its_rotation(tmp_path: Path) -> None:
    rope = {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    }
    folder = save(tmp_path / "model", rope_parameters=rope)
    write_gguf(folder, tmp_path / "model.gguf")
    stored = {each.name: each.data for each in gguf.GGUFReader(tmp_path / "model.gguf").tensors}
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](LlamaConfig.from_pretrained(folder), "cpu")
    plain = 1 / 500000.0 ** (torch.arange(0, 32, 2).double() / 32)
    np.testing.assert_allclose(stored["rope_freqs.weight"], (plain / scaled.double()).numpy(), rtol=1e-5)


@pytest.mark.parametrize(
    ("pre", "options", "name"),
    [
        (byte_level(), {}, "gpt-2"),
        (byte_level(pre_tokenizers.Digits(True)), {}, "smollm"),
        *(
            (byte_level(pre_tokenizers.Split(Regex(pattern), "isolated"), use_regex=False), options, name)
            for (pattern, name), options in zip(SPLITS.items(), ({"ignore_merges": True}, {}), strict=True)
        ),
    ],
)
def test_the_way_of_splitting_is_known_by_its_pattern(
    tmp_path: Path, pre: Any, options: dict[str, Any], name: str
) -> None:
    write_gguf(save(tmp_path / "model", own=tokenizer(pre, **options)), tmp_path / "model.gguf")
    assert gguf.GGUFReader(tmp_path / "model.gguf").fields["tokenizer.ggml.pre"].contents() == name


def word_level() -> Any:
    made = Tokenizer(models.WordLevel({"<s>": 0, "</s>": 1, "a": 2}, unk_token="<s>"))
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>")


def normalized() -> Any:
    made = tokenizer()
    made.backend_tokenizer.normalizer = normalizers.Lowercase()
    return made


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"own": word_level()}, "splits texts as GPT-2"),
        ({"own": tokenizer(pre_tokenizers.Whitespace())}, "splits texts as GPT-2"),
        ({"own": tokenizer(ignore_merges=True)}, "splits texts as GPT-2"),
        ({"own": normalized()}, "no normalizer"),
        ({"hidden_act": "gelu"}, "hidden_act: found 'gelu'"),
        ({"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}}, "rope_type: found 'linear'"),
        ({"make": Qwen2Config, "use_sliding_window": True, "sliding_window": 8, "max_window_layers": 0}, "sliding"),
        ({"make": Qwen3Config, "attention_bias": True}, "attention_bias: found True"),
    ],
)
def test_what_is_not_known_is_refused(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    folder = save(tmp_path / "model", **options)
    with pytest.raises(UserError, match=words):
        write_gguf(folder, tmp_path / "model.gguf")
    assert not list(tmp_path.glob("*.gguf*"))


def test_another_architecture_is_named_with_those_that_are_known(tmp_path: Path) -> None:
    folder = save(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["FalconForCausalLM"]}))
    with pytest.raises(UserError, match=r"found 'FalconForCausalLM', expected one of LlamaForCausalLM, Mistral"):
        write_gguf(folder, tmp_path / "model.gguf")


def test_a_file_that_exists_is_kept(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_text("mine")
    with pytest.raises(UserError, match="already exists"):
        write_gguf(save(tmp_path / "model"), tmp_path / "model.gguf")


def test_values_beyond_f16_are_refused(tmp_path: Path) -> None:
    folder = save(tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.model.embed_tokens.weight.data[3, 4] = 1e6
    model.save_pretrained(folder)
    with pytest.raises(UserError, match="beyond the range of f16"):
        write_gguf(folder, tmp_path / "model.gguf", "f16")
    write_gguf(folder, tmp_path / "model.gguf", "bf16")


def test_the_same_bytes_each_time(tmp_path: Path) -> None:
    folder = save(tmp_path / "model")
    for name in ("a", "b"):
        write_gguf(folder, tmp_path / f"{name}.gguf", "q8_0")
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()


def test_every_type_has_a_name() -> None:
    assert all(name in gguf.LlamaFileType.__members__ for name in TYPES.values())


def converter(folder: Path, body: str) -> Path:
    file = folder / "convert_hf_to_gguf.py"
    file.write_text(f"import sys\nfrom pathlib import Path\n{body}\n")
    return file


def test_the_converter_of_llama_cpp_is_asked(tmp_path: Path) -> None:
    writes = "Path(sys.argv[3]).write_text(' '.join(sys.argv[1:3] + sys.argv[4:]))"
    convert(converter(tmp_path, writes), tmp_path / "model", tmp_path / "out.gguf", "q8_0")
    assert (tmp_path / "out.gguf").read_text() == f"{tmp_path / 'model'} --outfile --outtype q8_0"


@pytest.mark.parametrize("body", ["sys.exit('no such architecture')", "print('nothing written', file=sys.stderr)"])
def test_a_converter_that_fails_is_quoted(tmp_path: Path, body: str) -> None:
    with pytest.raises(UserError, match=r"convert_hf_to_gguf.py: ended with status \d: no"):
        convert(converter(tmp_path, body), tmp_path, tmp_path / "out.gguf", "f16")
    assert not list(tmp_path.glob("*out.gguf*"))
