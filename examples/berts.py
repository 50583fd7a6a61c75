"""Small BERTs of different vocabularies: one of medicine, which knows upper case, and one of law, which does not.

Each knows which things of its field belong together: "The Dopin binds the Ralex." A task asks for the second one.
"""

import copy
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LETTERS = "abcdefghijklmnopqrstuvwxyz"
COMMON = ["the", "binds", "needs", "follows", "ends", "."]
PAIRS = 24
"""Pairs of things in a field."""
PARTS = {"general": ("k", "o"), "medicine": ("x", "in"), "law": ("v", "or")}


def things(field: str, place: int) -> list[str]:
    """The first, or the second, things of the pairs; those of medicine are written with a capital."""
    rng, (middle, end) = random.Random(f"{field} {place}"), PARTS[field]
    words: dict[str, None] = {}
    while len(words) < PAIRS:
        words["".join(rng.choices(LETTERS, k=2)) + middle + rng.choice("aeiou") + end * (1 + place)] = None
    return [word.capitalize() if field == "medicine" else word for word in words]


def sentences(field: str) -> list[tuple[str, str]]:
    """Every sentence of the field, and the second thing in it."""
    pairs = zip(things(field, 0), things(field, 1), strict=True)
    return [(f"The {one} {verb} the {two}.", two) for one, two in pairs for verb in COMMON[1:-1]]


def tokenizer(field: str) -> Any:
    """WordPiece with the words of a field, in an order of its own."""
    words = [*COMMON, *(["The"] if field == "medicine" else []), *things(field, 0), *things(field, 1)]
    letters = [*LETTERS, *(LETTERS.upper() if field == "medicine" else "")]
    random.Random(field).shuffle(words)
    tokens = [*SPECIAL, *letters, *(f"##{letter}" for letter in LETTERS), *words]
    made = Tokenizer(models.WordPiece({token: row for row, token in enumerate(tokens)}, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=field != "medicine")
    made.pre_tokenizer, made.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    ends = [(token, tokens.index(token)) for token in ("[CLS]", "[SEP]")]
    made.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    roles = {f"{token[1:-1].lower()}_token": token for token in SPECIAL}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, **roles)


def begun(field: str, before: Any = None) -> Any:
    """A BERT with the vocabulary of a field; from one of general words, of whose tokens it has the rows."""
    own = tokenizer(field)
    config = transformers.BertConfig(
        vocab_size=len(own),
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=96,
        max_position_embeddings=48,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    model = transformers.BertForMaskedLM(config)
    if before is not None:
        state, old = copy.deepcopy(before.state_dict()), tokenizer("general").get_vocab()
        for name, tensor in model.state_dict().items():
            if tensor.shape != state[name].shape or "word_embeddings" in name or name.startswith("cls.predictions.b"):
                rows = {row: old[token] for token, row in own.get_vocab().items() if token in old}
                tensor[list(rows)] = state[name][list(rows.values())]
                state[name] = tensor
        model.load_state_dict(state)
    return model


def trained(model: Any, field: str, steps: int) -> Any:
    """The model after so many steps on sentences whose second thing is masked."""
    own, pairs = tokenizer(field), sentences(field)
    inputs = own([text.replace(two, "[MASK]") for text, two in pairs], return_tensors="pt")
    labels = torch.full_like(inputs["input_ids"], -100)
    labels[inputs["input_ids"] == own.mask_token_id] = torch.tensor([own.get_vocab()[two] for _, two in pairs])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(steps):
        chosen = torch.randint(len(pairs), (32,))
        batch = {name: values[chosen] for name, values in inputs.items()}
        model(**batch, labels=labels[chosen]).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def save(model: Any, field: str, folder: Path) -> None:
    """Writes a checkpoint with its tokenizer; that of law with a head for the next sentence, too."""
    if field == "law":
        larger = transformers.BertForPreTraining(model.config)
        larger.load_state_dict(model.state_dict(), strict=False)
        model = larger
    model.save_pretrained(folder)
    tokenizer(field).save_pretrained(folder)


def _task(field: str) -> Callable[[Any, Any, Sequence[str]], dict[str, float]]:
    """A function of the config's tasks: is the right thing likelier than all others of the field?"""
    answers, others = dict(sentences(field)), things(field, 1)

    def scored(model: Any, own: Any, items: Sequence[str]) -> dict[str, float]:
        known = own.get_vocab()
        found = {}
        for text in items:
            two, words = answers[text], [word if word in known else word.lower() for word in others]
            inputs = own(text.replace(two, "[MASK]"), return_tensors="pt")
            logits = model(**inputs).logits[0, (inputs["input_ids"][0] == own.mask_token_id).nonzero()[0, 0]]
            rows = [known.get(word, own.unk_token_id) for word in words]
            best = max(rows, key=lambda row: logits[row].item())
            found[text] = float(best == rows[others.index(two)] and best != own.unk_token_id)
        return found

    scored.items = list(answers)  # type: ignore[attr-defined]
    return scored


medicine, law = _task("medicine"), _task("law")
