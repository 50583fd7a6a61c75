"""A byte-level byte-pair tokenizer, trained on both languages."""

from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from mergesearch.demo import Size
from mergesearch.demo.corpus import Corpus

BEGIN, END, PAD = "<s>", "</s>", "<pad>"
_SAMPLE = 1_000_000


def train(corpora: Iterable[Corpus], size: Size) -> Tokenizer:
    """Trained on the first characters of each language; a vocabulary this small needs no more."""
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
    """The same tokenizer as ``AutoTokenizer`` gives it back."""
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
        before = accumulate(map(len, texts), initial=0)
        yield from (text for text, total in zip(texts, before, strict=False) if total < _SAMPLE)
