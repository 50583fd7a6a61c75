"""Training of the base model and of its fine-tunes. The global random state is neither used nor changed."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from mergesearch.demo.optimizer import Optimizer
from mergesearch.demo.size import Size
from mergesearch.demo.tokenizer import BEGIN, END, PAD
from mergesearch.seeds import derive


def new_model(tokenizer: Tokenizer, size: Size) -> Any:
    """A Llama in float32 with seeded random weights."""
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=size.hidden,
        intermediate_size=2 * size.hidden,
        num_hidden_layers=size.layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=size.context,
        bos_token_id=tokenizer.token_to_id(BEGIN),
        eos_token_id=tokenizer.token_to_id(END),
        pad_token_id=tokenizer.token_to_id(PAD),
        tie_word_embeddings=False,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(size.seed, "weights"))
        return LlamaForCausalLM(config).float()


def reinitialise(model: Any, layer: int, seed: int) -> None:
    """Gives the matrices of one layer seeded random weights, of the standard deviation that new models have."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.model.layers[layer].parameters():
            if parameter.ndim == 2:
                parameter.normal_(0.0, model.config.initializer_range, generator=generator)


def encoded(tokenizer: Tokenizer, texts: Iterable[str]) -> Tensor:
    """[tokens] int64: all texts in one row, each between a begin and an end token."""
    begin, end = tokenizer.token_to_id(BEGIN), tokenizer.token_to_id(END)
    encodings = tokenizer.encode_batch(list(texts))
    return torch.tensor([token for encoding in encodings for token in (begin, *encoding.ids, end)])


def batches(rows: Sequence[Tensor], steps: int, size: Size, stage: str) -> Iterator[Tensor]:
    """[batch, context] int64 for each step: random windows, with an equal share from each row of tokens.

    The windows depend on the seed of ``size`` and on ``stage``.
    """
    generator = torch.Generator().manual_seed(derive(size.seed, "windows", stage))
    share = size.batch // len(rows)
    for _ in range(steps):
        yield torch.cat([_windows(row, share, size.context, generator) for row in rows])


def train(model: Any, data: Iterable[Tensor], steps: int, rate: float, on_step: Callable[[int], None]) -> None:
    """Trains ``model`` in place; see ``Optimizer``. ``on_step`` gets the number of steps done, after each."""
    optimizer = Optimizer(model, rate, steps)
    model.train()
    for done, batch in enumerate(data, start=1):
        model(input_ids=batch, labels=batch).loss.backward()
        optimizer.step()
        on_step(done)
    model.eval()


def _windows(row: Tensor, count: int, length: int, generator: torch.Generator) -> Tensor:
    starts = torch.randint(len(row) - length, (count, 1), generator=generator)
    return row[starts + torch.arange(length)]
