"""Small language models of a made-up language, trained in seconds: what the examples merge.

The words of the language are syllables. What follows a word depends on the topic: each topic has favourite successors
of its own for half of the words, and shares the others with all topics.
"""

import copy
import random
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers

WORDS = [consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aeiou"]
LENGTH = 31
"""Words of a text."""
TEXTS = 40
"""Texts that a task has for each topic."""
Row = tuple[Sequence[str], Sequence[float]]


def topic(name: str) -> dict[str, Row]:
    """The successors of each word, with their weights."""
    shared, own = random.Random("language"), random.Random(f"topic {name}")
    table = {}
    for word in WORDS:
        common, favourites = shared.sample(WORDS, 6), own.sample(WORDS, 2)
        is_own = own.random() < 0.5
        table[word] = ([*common, *favourites], [1.0] * 6 + [8.0 * is_own] * 2)
    return table


def text(tables: Sequence[Mapping[str, Row]], rng: random.Random) -> str:
    """A text whose words follow each other as in any of these topics."""
    words = [rng.choice(WORDS)]
    while len(words) < LENGTH:
        words.append(rng.choices(*rng.choice(tables)[words[-1]])[0])
    return " ".join(words)


def each_of(names: Sequence[str], count: int, seed: object) -> list[str]:
    """Texts, each of one of these topics in turn."""
    rng, tables = random.Random(f"texts {seed}"), [topic(name) for name in names]
    return [text([tables[n % len(tables)]], rng) for n in range(count)]


def blend_of(names: Sequence[str], count: int, seed: object) -> list[str]:
    """Texts that change between these topics at any word."""
    rng, tables = random.Random(f"texts {seed}"), [topic(name) for name in names]
    return [text(tables, rng) for _ in range(count)]


def write_task(folder: Path, name: str, names: Sequence[str]) -> None:
    """Texts that no model has seen, as files."""
    place = folder / "texts" / name
    place.mkdir(parents=True, exist_ok=True)
    for number, line in enumerate(blend_of(names, TEXTS, f"task {name}")):
        (place / f"{number:02}.txt").write_text(line, encoding="utf-8")


def tokenizer() -> Any:
    """A token for each word."""
    words = {word: number for number, word in enumerate(["<s>", "</s>", *WORDS])}
    model = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<s>"))
    model.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=model, bos_token="<s>", eos_token="</s>", unk_token="<s>", pad_token="</s>"
    )


def llama() -> Any:
    """A new Llama."""
    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=len(WORDS) + 2,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=LENGTH + 1,
            bos_token_id=0,
            eos_token_id=1,
        )
    )


def gpt_j() -> Any:
    """A new GPT-J."""
    return transformers.GPTJForCausalLM(
        transformers.GPTJConfig(
            vocab_size=len(WORDS) + 2,
            n_embd=64,
            n_layer=2,
            n_head=4,
            rotary_dim=8,
            n_positions=LENGTH + 1,
            bos_token_id=0,
            eos_token_id=1,
        )
    )


def trained(model: Any, lines: Iterable[str], steps: int, rate: float = 3e-3, seed: int = 0) -> Any:
    """A copy of the model after so many steps on these texts."""
    model, rng = copy.deepcopy(model), random.Random(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        ids = torch.tensor(tokenizer()(list(lines), add_special_tokens=False)["input_ids"])
        ids = torch.cat([torch.zeros(len(ids), 1, dtype=torch.long), ids], dim=1)
        optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps + 1)
        for _ in range(steps):
            batch = ids[rng.choices(range(len(ids)), k=32)]
            model(input_ids=batch, labels=batch).loss.backward()
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    return model.eval()


def save(model: Any, folder: Path) -> None:
    """Writes a checkpoint with its tokenizer."""
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
