"""Fine-tunes of the demo's base with random hyper-parameters, as the ingredients of soups.

All are trained from the same base on the demo's Python source, some with a share of C++, on one thread each. Learning
rate, steps, languages and the order of the data vary, as in the random search of Wortsman et al. (arXiv:2203.05482,
appendix J.2.3), so that some fine-tunes are better than others.
"""

import json
import math
import random
from collections.abc import Callable
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
"""The number of fine-tunes of one seed."""


@dataclass(frozen=True)
class Ingredient:
    """The hyper-parameters of one fine-tune. A batch has an equal share of each entry of ``mix``, a language."""

    seed: int
    number: int
    rate: float
    steps: int
    batch: int
    mix: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.number}-rate-{self.rate:.4f}-steps-{self.steps}"


def random_ingredient(seed: int, number: int) -> Ingredient:
    """The hyper-parameters of one fine-tune of a seed."""
    rng = random.Random(derive(seed, "ingredient", number))
    rate = math.exp(rng.uniform(math.log(0.012), math.log(0.04)))
    mix = rng.choice((("python",), ("python",), ("python", "python", "python", "cpp")))
    return Ingredient(seed, number, round(rate, 4), rng.choice((50, 65)), 16, mix)


def make(demo: Path, seeds: int, say: Callable[[str], None]) -> dict[int, list[Path]]:
    """Trains the fine-tunes of every seed, unless they exist. Returns their folders by seed."""
    logging.disable_progress_bar()
    base_digest = Checkpoint(str(demo / "base")).digest()
    folders: dict[int, list[Path]] = {}
    for ingredient in (random_ingredient(seed, number) for seed in range(seeds) for number in range(COUNT)):
        folder = demo / "soups" / f"seed-{ingredient.seed}" / ingredient.name
        folders.setdefault(ingredient.seed, []).append(folder)
        stamp = json.dumps({**asdict(ingredient), "base": base_digest}, indent=2) + "\n"
        stamp_file = folder / "ingredient.json"
        if not stamp_file.exists() or stamp_file.read_text() != stamp:
            say(f"seed {ingredient.seed}: training {ingredient.name}")
            _train(ingredient, demo / "base", folder, stamp)
    return folders


def _train(ingredient: Ingredient, base: Path, target: Path, stamp: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(base)
    size = replace(FULL, seed=derive(ingredient.seed, "order", ingredient.number), batch=ingredient.batch)
    rows = [_token_row(base, language) for language in ingredient.mix]
    batches = training.batches(rows, ingredient.steps, size, ingredient.name)
    torch.set_num_threads(1)
    training.train(model, batches, ingredient.steps, ingredient.rate, lambda _: None)
    with atomic_path(target) as folder:
        model.save_pretrained(folder)
        tokenizer.for_transformers(_tokenizer(base)).save_pretrained(folder)
        (folder / "ingredient.json").write_text(stamp)


@cache
def _tokenizer(base: Path) -> Tokenizer:
    return Tokenizer.from_file(str(base / "tokenizer.json"))


@cache
def _token_row(base: Path, language: str) -> torch.Tensor:
    return training.encoded(_tokenizer(base), read(language, FULL).training.values())
