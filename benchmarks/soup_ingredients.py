"""Fine-tunes of the demo's base with hyper-parameters drawn at random, as the ingredients of soups.

Each is trained on the demo's Python source (some with a share of C++) from the same base, on one thread. Learning rate,
steps, mix and the order of the data differ, as in the random search of Wortsman et al. (arXiv:2203.05482,
appendix J.2.3), so that some are good and some are not.
"""

import json
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM
from transformers.utils import logging

from mergesearch.demo import FULL, tokenizer, training
from mergesearch.demo.corpus import read
from mergesearch.files import atomic_path
from mergesearch.merge_ops.checkpoint.checkpoint import Checkpoint
from mergesearch.seeds import derive

COUNT = 8
"""Fine-tunes of one seed."""


@dataclass(frozen=True)
class Ingredient:
    """One fine-tune's hyper-parameters; ``mix``: from which languages a batch takes equal shares."""

    seed: int
    number: int
    rate: float
    steps: int
    batch: int
    mix: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.number}-rate-{self.rate:.4f}-steps-{self.steps}"


def drawn(seed: int, number: int) -> Ingredient:
    """The hyper-parameters of one fine-tune."""
    rng = random.Random(derive(seed, "ingredient", number))
    rate = math.exp(rng.uniform(math.log(0.012), math.log(0.04)))
    mix = rng.choice((("python",), ("python",), ("python", "python", "python", "cpp")))
    return Ingredient(seed, number, round(rate, 4), rng.choice((50, 65)), 16, mix)


def make(demo: Path, seeds: int, say: Callable[[str], None]) -> dict[int, list[Path]]:
    """The folders of every seed's fine-tunes; those that are there already are used again."""
    logging.disable_progress_bar()
    origin = Checkpoint(str(demo / "base")).digest()
    made: dict[int, list[Path]] = {}
    for ingredient in (drawn(seed, number) for seed in range(seeds) for number in range(COUNT)):
        target = demo / "soups" / f"seed-{ingredient.seed}" / ingredient.name
        made.setdefault(ingredient.seed, []).append(target)
        if not _is_made(target, ingredient, origin):
            say(f"seed {ingredient.seed}: training {ingredient.name}")
            _train(ingredient, demo / "base", target, origin)
    return made


def _stamp(ingredient: Ingredient, origin: str) -> str:
    return json.dumps({**asdict(ingredient), "base": origin}, indent=2) + "\n"


def _is_made(target: Path, ingredient: Ingredient, origin: str) -> bool:
    stamp = target / "ingredient.json"
    return stamp.exists() and stamp.read_text() == _stamp(ingredient, origin)


def _train(ingredient: Ingredient, base: Path, target: Path, origin: str) -> None:
    words = _tokenizer(base)
    model = AutoModelForCausalLM.from_pretrained(base)
    torch.set_num_threads(1)
    training.train(model, _batches(ingredient, base), ingredient.steps, ingredient.rate, lambda _: None)
    with atomic_path(target) as folder:
        model.save_pretrained(folder)
        tokenizer.for_transformers(words).save_pretrained(folder)
        (folder / "ingredient.json").write_text(_stamp(ingredient, origin))


def _batches(ingredient: Ingredient, base: Path) -> Iterator[torch.Tensor]:
    size = replace(FULL, seed=derive(ingredient.seed, "order", ingredient.number), batch=ingredient.batch)
    rows = [_row(base, language) for language in ingredient.mix]
    return training.batches(rows, ingredient.steps, size, ingredient.name)


@cache
def _tokenizer(base: Path) -> Tokenizer:
    return Tokenizer.from_file(str(base / "tokenizer.json"))


@cache
def _row(base: Path, language: str) -> torch.Tensor:
    return training.encoded(_tokenizer(base), read(language, FULL).training.values())
