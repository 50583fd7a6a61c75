"""llama.cpp's own converter, for models that only it knows."""

import subprocess
import sys
from pathlib import Path

from mergesearch.errors import UserError
from mergesearch.files import atomic_path
from mergesearch.reading import check_file
from mergesearch.text import shown

LAST = 400
"""How much is shown of what a converter that failed says."""


def convert(converter: Path, folder: Path, out: Path, kind: str) -> None:
    """Writes the model in a folder as a GGUF file by ``convert_hf_to_gguf.py``, which runs with this Python.

    Raises UserError where the file exists, there is no such converter, or it fails.
    """
    if out.exists():
        raise UserError(f"{out}: already exists; choose another path or remove it")
    check_file(converter)
    with atomic_path(out) as temporary:
        options = [str(folder), "--outfile", str(temporary), "--outtype", kind]
        done = subprocess.run([sys.executable, str(converter), *options], capture_output=True, text=True, check=False)
        if done.returncode != 0 or not temporary.is_file():
            raise UserError(f"{converter}: ended with status {done.returncode}: {shown(done.stderr.strip()[-LAST:])}")
