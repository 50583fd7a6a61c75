"""A byte-level BPE tokenizer, trained on all languages."""

from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from mergesearch.demo.corpus import Corpus
from mergesearch.demo.size import Size

BEGIN, END, PAD = "<s>", "</s>", "<pad>"
_CHARACTERS = 1_000_000
"""Training text of each language; a vocabulary this small does not need more."""


def train(corpora: Iterable[Corpus], size: Size) -> Tokenizer:
    """Trains a tokenizer with a vocabulary of ``size.vocabulary`` on the training text of each language."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size.vocabulary,
        special_tokens=[BEGIN, END, PAD],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_sample(corpora), trainer)
    return tokenizer


def for_transformers(tokenizer: Tokenizer) -> Any:
    """The tokenizer in the class that ``AutoTokenizer`` loads it as."""
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BEGIN,
        eos_token=END,
        pad_token=PAD,
        clean_up_tokenization_spaces=False,
    )


def _sample(corpora: Iterable[Corpus]) -> Iterator[str]:
    for corpus in corpora:
        texts = list(corpus.training.values())
        totals = accumulate(map(len, texts), initial=0)
        yield from (text for text, total in zip(texts, totals, strict=False) if total < _CHARACTERS)
