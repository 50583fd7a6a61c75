"""GGUF files, which llama.cpp and its relatives run: written from a model's folder, by the package ``gguf``.

What is not known to be read right there is refused: llama.cpp's own converter knows more.
"""

from mergesearch.merge_ops.output.gguf.converter import convert
from mergesearch.merge_ops.output.gguf.file import TYPES, write_gguf

__all__ = ["TYPES", "convert", "write_gguf"]
