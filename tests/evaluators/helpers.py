"""What the tests of evaluators share: words and sentences, tokenizers, tables, and texts of the tiny model."""

import json
import random
from functools import partial
from pathlib import Path
from typing import Any

WORDS = ["a", "the", "cat", "dog", "sat", "ran", "mat", "hill", "red", "blue", "sun", "moon", "why", "how", "and"]
LABELS = ("animal", "place", "sky")
SYSTEM_INSTRUCTION = "the cat says"


def sentence(rng: random.Random, words: int) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(words))


def write_rows(file: Path, rows: list[dict[str, Any]]) -> Path:
    """Writes rows as JSON lines."""
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return file


def byte_tokenizer() -> Any:
    """A byte-level BPE tokenizer of 320 tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<unk>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([sentence(random.Random(1), 300)], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def word_tokenizer() -> Any:
    """A tokenizer like BERT's, with one token per word of ``WORDS``."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: number for number, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def saver(model: Any) -> Any:
    """A ``LoadedModel.save`` that writes the model's first tensor, for programs that read no more."""

    def save(folder: Path) -> None:
        from safetensors.torch import save_file

        folder.mkdir()
        save_file({"first": next(model.parameters()).detach().clone()}, folder / "model.safetensors")

    return save


def widen_norms(model: Any) -> None:
    """In float64 as all else: transformers' own round to float32, which differences of losses would show."""
    import torch

    def norm(module: Any, x: Any) -> Any:
        wide = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + module.variance_epsilon)
        return module.weight * wide

    for module in model.modules():
        if hasattr(module, "variance_epsilon"):
            module.forward = partial(norm, module)


def generated_texts(folder: Path, prompts: list[str], tokens: int = 1) -> list[str]:
    """What the model in a folder generates after each prompt, greedily."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    texts = []
    for prompt in prompts:
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        new = model.generate(ids, max_new_tokens=tokens, do_sample=False, pad_token_id=0)[0, ids.shape[1] :]
        texts.append(tokenizer.decode(new, skip_special_tokens=True))
    return texts


def random_sentences(count: int) -> list[str]:
    """Sentences of 1 to 40 words."""
    rng = random.Random(3)
    return [sentence(rng, rng.randint(1, 40)) for _ in range(count)]


def random_documents() -> list[str]:
    """Sixty documents of forty words each, all of them different."""
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefgh", k=5)) for _ in range(300)]
    return [" ".join(rng.choices(words, k=40)) for _ in range(60)]
