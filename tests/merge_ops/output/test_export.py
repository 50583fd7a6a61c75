"""Files and memory of merges that succeed, fail or are killed."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mergesearch.errors import UserError
from mergesearch.merge_ops.checkpoint.tensor_files import TensorInfo
from mergesearch.merge_ops.engine.engine import merge
from mergesearch.merge_ops.output.writer import Writer, written_checkpoint
from mergesearch.merge_ops.recipe.recipe import Recipe

from ..helpers import INPUTS, save, tensor

MEGABYTE = 1 << 20
MEASURED = """
import re, sys, time
import torch
from pathlib import Path
from mergesearch.merge_ops.engine.engine import merge
from mergesearch.merge_ops.recipe.recipe import Recipe

def kilobytes(name):
    return int(re.search(name + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

base, one, two, out = sys.argv[1:]
models = [{"model": model, "parameters": {"weight": 0.5}} for model in (one, two)]
recipe = Recipe.read({"merge_method": "task_arithmetic", "base_model": base, "models": models})
Path("/proc/self/clear_refs").write_text("5")
before = kilobytes("VmRSS")
merge(recipe, Path(out))
print((kilobytes("VmHWM") - before) // 1024)
"""


def linear(*models: str) -> Recipe:
    entries = [{"model": model, "parameters": {"weight": 1}} for model in models]
    return Recipe.read({"merge_method": "linear", "models": entries})


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="measures memory as Linux shows it")
def test_memory_is_a_few_tensors_whatever_the_models_size(tmp_path: Path) -> None:
    size, count = 8, 24
    elements = size * MEGABYTE // 4
    for name in ("base", "one", "two"):
        save(tmp_path / name, {f"t{i}": torch.full((elements,), float(i)) for i in range(count)})
    paths = [str(tmp_path / name) for name in ("base", "one", "two", "out")]
    done = subprocess.run([sys.executable, "-c", MEASURED, *paths], capture_output=True, text=True, check=True)
    # Three inputs, the result, and the imported code. The checkpoints have 576 MB in total.
    assert int(done.stdout) < 8 * size + 60


def test_an_ended_process_leaves_nothing(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from mergesearch.merge_ops.assembly import assembly; "
        "assembly.Assembly.write_tensor = lambda *_: (print('here', flush=True), time.sleep(600)); "
        "from mergesearch.merge_ops.engine.engine import merge; "
        "from mergesearch.merge_ops.recipe.recipe import Recipe; "
        "models = [{'model': model, 'parameters': {'weight': 1}} for model in sys.argv[2:]]; "
        "merge(Recipe.read({'merge_method': 'linear', 'models': models}), Path(sys.argv[1]))"
    )
    models = [str(INPUTS / name) for name in ("base", "ft1")]
    command = [sys.executable, "-c", code, str(tmp_path / "deep" / "out"), *models]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "here\n"
        assert list((tmp_path / "deep").iterdir())
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 128 + signal.SIGTERM
    assert list(tmp_path.iterdir()) == []


def test_signals_are_as_they_were(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    merge(linear(str(INPUTS / "base")), tmp_path / "out")
    assert signal.getsignal(signal.SIGTERM) is before


def test_what_is_not_read_back_as_written_is_an_error(tmp_path: Path) -> None:
    infos = {"a": TensorInfo((9,), torch.float32), "b": TensorInfo((9,), torch.float32)}

    def fill() -> None:
        with written_checkpoint(tmp_path / "deep" / "out", infos, verify=True) as writer:
            for _, target in writer.tensors():
                target.copy_(tensor((9,), 1))
            file = writer.folder / "model.safetensors"
            content = bytearray(file.read_bytes())
            content[-1] ^= 1
            file.write_bytes(content)

    with pytest.raises(UserError, match=r"what was read back is not what was written: b$"):
        fill()
    assert list(tmp_path.iterdir()) == []


def test_every_shard_is_proved(tmp_path: Path) -> None:
    infos = {f"t{i}": TensorInfo((9,), torch.float32) for i in range(4)}
    writer = Writer(tmp_path, infos, 80)
    for _, target in writer.tensors():
        target.fill_(1)
    writer.verify()
    (tmp_path / "model-00002-of-00002.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match=r"00002-of-00002\.safetensors: is not a readable safetensors file"):
        writer.verify()


def test_the_folders_above_stay_where_they_were_there(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    one, two = save(tmp_path / "one", {"a": torch.ones(1)}), save(tmp_path / "two", {"b": torch.ones(1)})
    with pytest.raises(UserError, match="the checkpoints differ"):
        merge(linear(one, two), tmp_path / "there" / "new" / "out")
    assert list((tmp_path / "there").iterdir()) == []
    merge(linear(one), tmp_path / "there" / "new" / "out")
    assert (tmp_path / "there" / "new" / "out" / "model.safetensors").exists()
