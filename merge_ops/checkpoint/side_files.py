"""The files of a checkpoint's folder beside the weights: config, tokenizer, processor, chat templates."""

import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from mergesearch.errors import UserError
from mergesearch.reading import check_file

CARD = "README.md"
"""The file of a model's card."""
CHAT_TEMPLATES = ("chat_template*", "additional_chat_templates/*")
VOCABULARIES = (
    "tokenizer.json",
    "*vocab*.json",
    "vocab*.txt",
    "vocab.*",
    "*.model",
    "*.spm",
    "*.tiktoken",
    "tekken.json",
    "bpe.codes",
    "dict.txt",
)
"""Glob patterns of the files that tell the tokens of a vocabulary."""
TOKENIZER_FILES = (
    *VOCABULARIES,
    "tokenizer*",
    "merges*.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "emoji.json",
    "normalizer.json",
)
SENTENCE_MODULES = "[0-9]*_[A-Z]*/*"
"""The modules of sentence-transformers, such as ``1_Pooling/config.json`` and ``2_Dense/model.safetensors``."""
SIDE_FILES = (
    "config.json",
    "generation_config.json",
    *TOKENIZER_FILES,
    *CHAT_TEMPLATES,
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    "modules.json",
    "config_sentence_transformers.json",
    "sentence_*_config.json",
    SENTENCE_MODULES,
)
"""Glob patterns of the files that transformers and sentence-transformers load beside the weights."""


def side_files(folder: Path, patterns: tuple[str, ...] = SIDE_FILES) -> Iterator[Path]:
    """Yields each file that matches, once. Raises UserError for a link that leads nowhere, and for a pipe or device."""
    for file in dict.fromkeys(file for pattern in patterns for file in _matching(folder, pattern)):
        check_link(file)
        if file.exists() and not file.is_dir():
            check_file(file)
            yield file


def copy_files(source: Path, files: Iterable[Path], folder: Path) -> None:
    """Copies files of the folder ``source``, with those folders that they are in: content, not links or permissions."""
    for file in files:
        target = folder / file.relative_to(source)
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(file, target)


def _matching(folder: Path, pattern: str) -> list[Path]:
    # A pattern without wildcards does not match a broken link.
    return sorted(folder.glob(pattern)) if "*" in pattern else [folder / pattern]


def check_link(path: Path) -> None:
    """Raises UserError if the path is a link that leads nowhere, as in a cache whose files were removed."""
    if path.is_symlink() and not path.exists():
        raise UserError(f"{path}: is a link to {path.readlink()}, which does not exist")
