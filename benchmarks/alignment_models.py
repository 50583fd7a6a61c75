"""Models of one architecture that were trained apart: two digit CNNs, two with batch norm, and two small Llamas.

The two of a pair have other random weights, other halves of the data and another order of it. They are trained once, on
one thread (the Llamas two minutes each), and saved under results/beds/alignment. ``build`` makes the CNNs for
mergesearch. ``inputs.safetensors`` has training images, and ``calibration.txt`` training text of both halves.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_digits
from torch import Tensor, nn
from transformers.utils import logging

from mergesearch.demo import FULL, tokenizer, training
from mergesearch.demo.corpus import Corpus, read
from mergesearch.files import atomic_path
from mergesearch.seeds import derive

FOLDER = Path("results/beds/alignment")
BUILDER = f"{Path(__file__)}:build"
SIZE = replace(FULL, hidden=96, layers=2, batch=32)
LLAMA_STEPS, CNN_STEPS = 900, 600
TEST_IMAGES = 397
TEXT = "calibration.txt"
IMAGES = "images.safetensors"


@dataclass(frozen=True)
class Pair:
    """Two models trained apart.

    Attributes:
        name: the name of the kind.
        data: the path of the text or of the images that calibrate them.
        builder: makes them, or None where transformers does.
    """

    name: str
    data: str
    builder: str | None

    @property
    def models(self) -> tuple[str, str]:
        """The folders of the two models."""
        return str(FOLDER / f"{self.name}-0"), str(FOLDER / f"{self.name}-1")


PAIRS = (
    Pair("cnn", str(FOLDER / IMAGES), BUILDER),
    Pair("cnn-batch-norm", str(FOLDER / IMAGES), BUILDER),
    Pair("llama", str(FOLDER / TEXT), None),
)


def build(path: str) -> nn.Module:
    """Returns the CNN of a folder, with random weights: the builder of a config."""
    model: Any = cnn(has_batch_norm="batch-norm" in Path(path).name)
    model.dummy_inputs = (torch.zeros(2, 1, 8, 8),)
    return model  # type: ignore[no-any-return]


def cnn(has_batch_norm: bool) -> nn.Module:
    """Two convolutions and two linear layers, for images of 8 × 8 pixels and ten classes."""

    def norm(width: int) -> list[nn.Module]:
        return [nn.BatchNorm2d(width)] if has_batch_norm else []

    first, second = nn.Conv2d(1, 64, 3, padding=1), nn.Conv2d(64, 128, 3, padding=1)
    body = [first, *norm(64), nn.ReLU(), second, *norm(128), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()]
    return nn.Sequential(*body, nn.Linear(2048, 256), nn.ReLU(), nn.Linear(256, 10))


def make(say: Callable[[str], None]) -> None:
    """Trains the models that are missing."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    for pair in PAIRS:
        for half, folder in enumerate(map(Path, pair.models)):
            if not folder.exists():
                say(f"training {folder.name}")
                _train_llama(half, folder) if pair.builder is None else _train_cnn(half, folder)
    save_file({"input": torch.cat([_images(half)[0] for half in (0, 1)])}, FOLDER / IMAGES)
    (FOLDER / TEXT).write_text("\n".join(text for half in (0, 1) for text in _texts(half)[:40]), encoding="utf-8")


def loss_of(pair: Pair, model: nn.Module) -> float:
    """The mean loss on held-out data: nats per image, or per token."""
    model.eval()
    with torch.no_grad():
        if pair.builder is not None:
            images, labels = _held_out_images()
            return float(nn.functional.cross_entropy(model(images), labels))
        return sum(float(model(input_ids=rows, labels=rows).loss) for rows in _held_out_rows()) / len(_held_out_rows())


def load(pair: Pair, folder: str) -> nn.Module:
    """The model of a folder, in evaluation mode."""
    if pair.builder is None:
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()  # type: ignore[no-any-return]
    model = cnn("batch-norm" in pair.name)
    model.load_state_dict(load_file(Path(folder) / "model.safetensors"))
    return model.eval()


def _train_cnn(half: int, folder: Path) -> None:
    images, labels = _images(half)
    generator = torch.Generator().manual_seed(derive(half, "images"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(half, "weights"))
        model = cnn("batch-norm" in folder.name)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, CNN_STEPS)
    model.train()
    for _ in range(CNN_STEPS):
        batch = torch.randint(len(labels), (64,), generator=generator)
        optimizer.zero_grad()
        loss: Any = nn.functional.cross_entropy(model(images[batch]), labels[batch])
        loss.backward()
        optimizer.step()
        schedule.step()
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        save_file(
            {name: tensor.contiguous() for name, tensor in model.state_dict().items()}, temporary / "model.safetensors"
        )


@cache
def _digits() -> tuple[Tensor, Tensor]:
    """[images, 1, 8, 8] from -1 to 1, and [images] int64, in a seeded order."""
    images, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(derive(0, "digits")))
    scaled = torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8) / 8 - 1
    return scaled[order], torch.tensor(labels)[order]


def _images(half: int) -> tuple[Tensor, Tensor]:
    images, labels = _digits()
    return images[TEST_IMAGES + half :: 2], labels[TEST_IMAGES + half :: 2]


def _held_out_images() -> tuple[Tensor, Tensor]:
    images, labels = _digits()
    return images[:TEST_IMAGES], labels[:TEST_IMAGES]


def _train_llama(half: int, folder: Path) -> None:
    size = replace(SIZE, seed=derive(half, "llama"))
    model = training.new_model(_tokenizer(), size)
    row = training.encoded(_tokenizer(), _texts(half))
    training.train(model, training.batches([row], LLAMA_STEPS, size, "llama"), LLAMA_STEPS, 0.02, lambda _: None)
    with atomic_path(folder) as temporary:
        model.save_pretrained(temporary)
        tokenizer.for_transformers(_tokenizer()).save_pretrained(temporary)


@cache
def _corpus() -> Corpus:
    return read("english", FULL)


@cache
def _tokenizer() -> Any:
    return tokenizer.train([_corpus()], FULL)


def _texts(half: int) -> list[str]:
    return list(_corpus().training.values())[half::2]


@cache
def _held_out_rows() -> tuple[Tensor, ...]:
    """[32, 64] int64 each."""
    row = training.encoded(_tokenizer(), _corpus().held_out.values())[: 32 * 32 * SIZE.context]
    return row.view(-1, 32, SIZE.context).unbind()


if __name__ == "__main__":
    make(print)
    for each in PAIRS:
        print(each.name, [loss_of(each, load(each, folder)) for folder in each.models])
