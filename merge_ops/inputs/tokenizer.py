"""The tokenizer of a result: the base's, a model's, or the union of all; and its chat template."""

import json
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mergesearch.errors import UserError
from mergesearch.merge_ops.checkpoint.checkpoint import Checkpoint
from mergesearch.merge_ops.inputs.chat_templates import named_template
from mergesearch.merge_ops.recipe.vocabulary_config import TokenizerConfig


def load_tokenizer(checkpoint: Checkpoint) -> Any:
    """transformers' tokenizer of a checkpoint; None where it has none."""
    folder = checkpoint.folder
    if folder is None or not any((folder / name).exists() for name in ("tokenizer.json", "tokenizer_config.json")):
        return None
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def result_tokenizer(
    config: TokenizerConfig,
    tokenizers: Mapping[str, Any],
    rows: Mapping[str, int],
    base: str,
    places: Mapping[str, Path],
) -> Any:
    """The result's tokenizer, and every token that ``config`` names in it.

    ``tokenizers`` and ``rows`` are each model's tokenizer and number of embeddings. As in mergekit, tokens of the base
    beyond its embeddings are dropped, and what other models add is appended as added tokens.
    """
    if config.source == "base":
        made = _stripped(tokenizers[base], rows[base], base)
    elif config.source == "union":
        made = _union(_stripped(tokenizers[base], rows[base], base), tokenizers, rows)
    else:
        made = load_tokenizer(Checkpoint(config.source, places))
        if made is None:
            raise UserError(f"tokenizer.source: {config.source} has no tokenizer")
    known = made.get_vocab()
    made.add_tokens([token for token in config.tokens if token not in known])
    return made


def _stripped(tokenizer: Any, rows: int, reference: str) -> Any:
    """A copy without the tokens that have no embedding."""
    made = _copied(tokenizer)
    unused = {token for token, index in made.get_vocab().items() if index >= rows}
    if unused:
        content = json.loads(made.backend_tokenizer.to_str())
        if content["model"]["type"] != "BPE":
            kind = content["model"]["type"]
            raise UserError(f"{reference}: the tokenizer has tokens without embeddings, and is {kind}, expected BPE")
        _strip(content, unused)
        made._tokenizer = type(made.backend_tokenizer).from_str(json.dumps(content))
    return made


def _strip(content: dict[str, Any], unused: set[str]) -> None:
    model = content["model"]
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] not in unused]
    model["vocab"] = {token: index for token, index in model["vocab"].items() if token not in unused}
    model["merges"] = [merge for merge in model["merges"] if not unused & _merge_tokens(merge)]


def _merge_tokens(merge: Any) -> set[str]:
    """What a merge, "a b" or ["a", "b"], takes and what it makes."""
    parts = merge.split(" ") if isinstance(merge, str) else list(merge)
    return {*parts, "".join(parts)}


def _copied(tokenizer: Any) -> Any:
    from transformers import AutoTokenizer

    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        return AutoTokenizer.from_pretrained(folder)


def _union(made: Any, tokenizers: Mapping[str, Any], rows: Mapping[str, int]) -> Any:
    known = made.get_vocab()
    plain, added = dict[str, None](), dict[str, Any]()
    for reference, tokenizer in tokenizers.items():
        special = {info.content: info for i, info in tokenizer.added_tokens_decoder.items() if i < rows[reference]}
        vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda entry: entry[1])
        plain |= dict.fromkeys(t for t, i in vocabulary if i < rows[reference] and t not in special)
        added = {**special, **added}
    made.add_tokens([token for token in plain if token not in added and token not in known])
    made.add_tokens(list(added.values()))
    return made


def chat_template(name: str, folders: Sequence[Path]) -> str | None:
    """The template that a recipe asks for: Jinja as it is, one known by name, or with ``auto`` the models' commonest.

    ``folders`` are the models'. None: ``auto``, and no model has one. Raises UserError for what is neither.
    """
    if name == "auto":
        found = [template.strip() for template in map(stored_template, folders) if template]
        return Counter(found).most_common(1)[0][0] if found else None
    return name if "{" in name else named_template(name)


def stored_template(folder: Path) -> str | None:
    """The chat template in a model's folder; the default one where there are several."""
    file = folder / "chat_template.jinja"
    if file.exists():
        return file.read_text(encoding="utf-8")
    config = folder / "tokenizer_config.json"
    found = json.loads(config.read_text(encoding="utf-8")).get("chat_template") if config.exists() else None
    if isinstance(found, list):
        found = next((entry["template"] for entry in found if entry.get("name") == "default"), None)
    return found if isinstance(found, str) else None


def write_chat_template(folder: Path, template: str) -> None:
    """Puts a chat template into a folder with a tokenizer, in place of what was there."""
    for file in [*folder.glob("chat_template.*"), *folder.glob("additional_chat_templates/*")]:
        file.unlink()
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    config = folder / "tokenizer_config.json"
    if config.exists():
        content = json.loads(config.read_text(encoding="utf-8"))
        if content.pop("chat_template", None) is not None:
            config.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


@contextmanager
def quiet_tokenizers() -> Iterator[None]:
    """Keeps transformers from warning of vocabularies that are about to be fitted."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)
