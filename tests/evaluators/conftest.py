"""A tiny random Llama, tiny local lm-eval tasks, and what the real ``lm_eval`` command line prints for them."""

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .command_line import Printed

WORDS = ["a", "the", "cat", "dog", "sat", "ran", "mat", "hill", "red", "blue", "sun", "moon", "why", "how", "and"]


def sentence(draw: random.Random, words: int) -> str:
    return " ".join(draw.choice(WORDS) for _ in range(words))


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Data sets are cached under the tests' temporary folder."""
    cache = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("datasets.config.HF_DATASETS_CACHE", cache)
        yield cache


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """More threads only get in each other's way in a model this small."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random Llama of 30,000 parameters and its byte-level tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("model")
    reader = tokenizer()
    reader.save_pretrained(folder)
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
        for token, text in enumerate(reader.convert_ids_to_tokens(range(320))):
            if text in {None, "Ġ"} or text[0] != "Ġ":
                model.lm_head.weight[token] = 0  # it says beginnings of words, not halves of characters
    model.save_pretrained(folder)
    return folder


def tokenizer() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE(unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<unk>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator([sentence(random.Random(1), 300)], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


@pytest.fixture
def subject(causal: Any) -> Any:
    """The model that most evaluators are for."""
    return causal


@pytest.fixture
def causal(saved: Path) -> Any:
    """The saved model, loaded anew: a test may change its weights."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from mergesearch.evaluators import LoadedModel

    model = AutoModelForCausalLM.from_pretrained(saved).eval()
    return LoadedModel(model, AutoTokenizer.from_pretrained(saved), saver(model))


LABELS = ("animal", "place", "sky")


@pytest.fixture(scope="session")
def saved_classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random BERT of 40 positions that tells three labels apart, and its tokenizer."""
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


def word_tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: number for number, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


@pytest.fixture
def classifier(saved_classifier: Path) -> Any:
    """The saved classifier, loaded anew: a test may change its weights."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from mergesearch.evaluators import LoadedModel

    model = AutoModelForSequenceClassification.from_pretrained(saved_classifier).eval()
    return LoadedModel(model, AutoTokenizer.from_pretrained(saved_classifier), saver(model))


def saver(model: Any) -> Any:
    """Writes a model's first tensor: enough for a program that reads no more."""

    def save(folder: Path) -> None:
        from safetensors.torch import save_file

        folder.mkdir()
        save_file({"first": next(model.parameters()).detach().clone()}, folder / "model.safetensors")

    return save


def write_rows(file: Path, rows: list[dict[str, Any]]) -> Path:
    """Rows as JSON lines."""
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return file


@pytest.fixture(scope="session")
def tasks(tmp_path_factory: pytest.TempPathFactory, saved: Path) -> Path:
    """A folder of tasks: toy_mc, toy_shots, toy_word, toy_text, toy_gen, toy_odd, toy_group, and those of ``kinds``."""
    from .kinds import write_kinds

    folder = tmp_path_factory.mktemp("tasks")
    draw = random.Random(2)
    write_task(folder, "toy_mc", choice_docs(draw, 40), MULTIPLE_CHOICE + "num_fewshot: 0\n")
    write_task(folder, "toy_shots", choice_docs(draw, 24), MULTIPLE_CHOICE)
    write_task(folder, "toy_odd", choice_docs(draw, 8), MULTIPLE_CHOICE + ODD_METRICS)
    words = [{"context": sentence(draw, 8), "word": f" {draw.choice(WORDS)}"} for _ in range(12)]
    first = greedy(saved, [doc["context"] for doc in words[:6]])
    words[:6] = [{**doc, "word": word} for doc, word in zip(words, first, strict=False)]
    write_task(folder, "toy_word", words, WORD)
    write_task(folder, "toy_text", [{"page": sentence(draw, size)} for size in (5, 300, 120)], TEXT)
    answers = greedy(saved, [f"Q: {doc['context']} A:" for doc in words], tokens=4)
    questions = [
        {"question": doc["context"], "answer": answer.strip() if number % 2 else "no"}
        for number, (doc, answer) in enumerate(zip(words, answers, strict=True))
    ]
    write_task(folder, "toy_gen", questions, GENERATE)
    (folder / "toy_group.yaml").write_text("group: toy_group\ntask: [toy_mc, toy_gen]\n")
    write_kinds(folder, saved)
    return folder


def choice_docs(draw: random.Random, count: int) -> list[dict[str, Any]]:
    """Questions of very different lengths: two are longer than the model's context."""
    return [
        {
            "question": sentence(draw, 150 if number < 2 else draw.randint(3, 25)),
            "choices": [sentence(draw, draw.randint(1, 4)) for _ in range(4)],
            "gold": draw.randrange(4),
            "source": f"file {number // 4}",
        }
        for number in range(count)
    ]


def write_task(folder: Path, name: str, docs: list[dict[str, Any]], settings: str) -> None:
    data = folder / f"{name}.jsonl"
    data.write_text("".join(json.dumps(doc) + "\n" for doc in docs))
    (folder / f"{name}.yaml").write_text(
        f"task: {name}\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {data}}}}}\n"
        f"test_split: test\n{settings}"
    )


def greedy(saved: Path, texts: list[str], tokens: int = 1) -> list[str]:
    """What the saved model says next."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, reader = AutoModelForCausalLM.from_pretrained(saved), AutoTokenizer.from_pretrained(saved)
    said = []
    for text in texts:
        ids = reader(text, return_tensors="pt").input_ids
        new = model.generate(ids, max_new_tokens=tokens, do_sample=False, pad_token_id=0)[0, ids.shape[1] :]
        said.append(reader.decode(new, skip_special_tokens=True))
    return said


MULTIPLE_CHOICE = """output_type: multiple_choice
doc_to_text: "Q: {{question}} A:"
doc_to_choice: "{{choices}}"
doc_to_target: gold
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
"""
ODD_METRICS = """  - {metric: f1, aggregation: f1, higher_is_better: true}
  - {metric: likelihood, aggregation: mean, higher_is_better: true}
"""
WORD = """output_type: loglikelihood
doc_to_text: context
doc_to_target: word
num_fewshot: 0
target_delimiter: ""
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: perplexity, aggregation: perplexity, higher_is_better: false}
"""
TEXT = """output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: page
num_fewshot: 0
metric_list:
  - {metric: bits_per_byte, aggregation: bits_per_byte, higher_is_better: false}
  - {metric: word_perplexity, aggregation: weighted_perplexity, higher_is_better: false}
  - {metric: byte_perplexity, aggregation: weighted_perplexity, higher_is_better: false}
"""
GENERATE = """output_type: generate_until
doc_to_text: "Q: {{question}} A:"
doc_to_target: answer
num_fewshot: 0
generation_kwargs: {until: ["zzz"], max_gen_toks: 4, do_sample: false}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
filter_list:
  - {name: whole, filter: [{function: remove_whitespace}, {function: take_first}]}
  - {name: letters, filter: [{function: regex, regex_pattern: "([a-z]+)"}, {function: take_first}]}
"""


CHAT_INSTRUCTION = "the cat says"
CHAT = (
    "{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<a>{% endif %}"
)


@pytest.fixture(scope="session")
def chatty(saved: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The saved model, its tokenizer with a chat template."""
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("chatty") / "model"
    shutil.copytree(saved, folder)
    reader = AutoTokenizer.from_pretrained(saved)
    reader.chat_template = CHAT
    reader.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def command_line(
    chatty: Path, tasks: Path, own_cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> "dict[str, Printed]":
    """What the real command line prints, plainly and in a chat; tasks that say nothing else with two examples."""
    from .command_line import run

    model = f"--model hf --model_args pretrained={chatty} --device cpu --batch_size 5 --num_fewshot 2".split()
    calls = {
        "plain": ["--tasks", "by_size,toy_shots,toy_word,toy_text,toy_gen,toy_bleu,toy_parts"],
        "chat": [
            *("--tasks", "evenly,toy_shots,toy_say"),
            *("--apply_chat_template", "--system_instruction", CHAT_INSTRUCTION),
        ],
    }
    return run([*model, "--include_path", str(tasks)], calls, tmp_path_factory.mktemp("printed"), own_cache)


@pytest.fixture(scope="session")
def printed(command_line: "dict[str, Printed]") -> dict[str, dict[str, Any]]:
    """What is printed plainly, by task."""
    return command_line["plain"].values
