"""Tiny random models, tiny lm-eval tasks, and what the real ``lm_eval`` command line prints for them."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ..tolerances import aligned
from .helpers import LABELS, SYSTEM_INSTRUCTION, WORDS, byte_tokenizer, saver, word_tokenizer

if TYPE_CHECKING:
    from .command_line import Printed

CHAT_TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<a>{% endif %}"
)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Data sets are cached in the tests' temporary folder."""
    cache = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("datasets.config.HF_DATASETS_CACHE", cache)
        yield cache


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """A model this small is slower with more threads."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random Llama of 30,000 parameters, 128 positions, and its byte-level tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("model")
    tokenizer = byte_tokenizer()
    tokenizer.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=320,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        bos_token_id=1,
        eos_token_id=2,
        initializer_range=0.3,
    )
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
    with torch.no_grad():
        for token, text in enumerate(tokenizer.convert_ids_to_tokens(range(320))):
            if text in {None, "Ġ"} or text[0] != "Ġ":
                model.lm_head.weight[token] = 0  # it generates beginnings of words, not halves of characters
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def subject(causal: Any) -> Any:
    """The model for most evaluators."""
    return causal


@pytest.fixture
def causal(saved: Path) -> Any:
    """The saved language model, loaded again for each test, which may change its weights."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from mergesearch.evaluators import LoadedModel

    model = aligned(AutoModelForCausalLM.from_pretrained(saved).eval())
    return LoadedModel(model, AutoTokenizer.from_pretrained(saved), saver(model))


@pytest.fixture
def wide(causal: Any) -> Any:
    """The saved language model in float64, where no number and no choice depends on the processor's rounding."""
    causal.model.double()
    return causal


@pytest.fixture(scope="session")
def saved_classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random BERT of 40 positions and three labels, and its tokenizer."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    folder = tmp_path_factory.mktemp("classifier")
    word_tokenizer().save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(WORDS) + 4,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=40,
        pad_token_id=0,
        initializer_range=0.6,
        id2label=dict(enumerate(LABELS)),
        label2id={name: number for number, name in enumerate(LABELS)},
    )
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        BertForSequenceClassification(config).save_pretrained(folder)
    return folder


@pytest.fixture
def classifier(saved_classifier: Path) -> Any:
    """The saved classifier, loaded again for each test, which may change its weights."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from mergesearch.evaluators import LoadedModel

    model = aligned(AutoModelForSequenceClassification.from_pretrained(saved_classifier).eval())
    return LoadedModel(model, AutoTokenizer.from_pretrained(saved_classifier), saver(model))


@pytest.fixture(scope="session")
def tasks(tmp_path_factory: pytest.TempPathFactory, saved: Path) -> Path:
    """A folder with the tasks of ``lm_eval_tasks.write_tasks``."""
    from .lm_eval_tasks import write_tasks

    folder = tmp_path_factory.mktemp("tasks")
    write_tasks(folder, saved)
    return folder


@pytest.fixture(scope="session")
def saved_chat_model(saved: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The saved language model, with a chat template."""
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("chat") / "model"
    shutil.copytree(saved, folder)
    tokenizer = AutoTokenizer.from_pretrained(saved)
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def command_line(
    saved_chat_model: Path, tasks: Path, own_cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> "dict[str, Printed]":
    """What the real command line prints, with and without a chat template; two examples unless the task has its own.

    In float64, like ``wide``.
    """
    from .command_line import run

    arguments = f"pretrained={saved_chat_model},dtype=float64"
    model = f"--model hf --model_args {arguments} --device cpu --batch_size 5 --num_fewshot 2".split()
    calls = {
        "plain": [
            "--tasks",
            "by_size,toy_shots,toy_word,toy_text,toy_gen,toy_bleu,toy_parts,toy_lists,toy_own,toy_scripts,nested",
        ],
        "chat": [
            *("--tasks", "evenly,toy_shots,toy_say"),
            *("--apply_chat_template", "--system_instruction", SYSTEM_INSTRUCTION),
        ],
    }
    return run([*model, "--include_path", str(tasks)], calls, tmp_path_factory.mktemp("printed"), own_cache)


@pytest.fixture(scope="session")
def printed(command_line: "dict[str, Printed]") -> dict[str, dict[str, Any]]:
    """What is printed without a chat template, by task."""
    return command_line["plain"].values
