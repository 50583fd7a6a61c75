"""Searches over models that transformers does not know: a CNN with batch norms, a U-Net; by a builder, or programs."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mergesearch import Run
from mergesearch.errors import UserError
from mergesearch.merge_ops.checkpoint.weight_files import find_weights
from mergesearch.merge_ops.recipe.recipe import Recipe
from mergesearch.parsing import dump_yaml, read_yaml
from mergesearch.search.candidates.plan import open_plan
from mergesearch.search.cli import main
from mergesearch.search.config import Config

from .helpers import go

NETS = '''
import torch
from torch import nn


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.resnets = nn.ModuleList([nn.Conv2d(width, width, 3, padding=1) for _ in range(2)])
        self.norm = nn.GroupNorm(2, width)

    def forward(self, x):
        for layer in self.resnets:
            x = x + torch.relu(layer(x))
        return self.norm(x)


class UNet(nn.Module):
    """Nested names as in diffusers; down, middle and up."""

    def __init__(self):
        super().__init__()
        self.conv_in = nn.Conv2d(1, 4, 3, padding=1)
        self.down_blocks = nn.ModuleList([Block(4)])
        self.mid_block = Block(4)
        self.up_blocks = nn.ModuleList([Block(8)])
        self.conv_out = nn.Conv2d(8, 1, 3, padding=1)

    def forward(self, x):
        x = self.down_blocks[0](self.conv_in(x))
        y = nn.functional.interpolate(self.mid_block(nn.functional.avg_pool2d(x, 2)), scale_factor=2)
        return self.conv_out(self.up_blocks[0](torch.cat([x, y], dim=1)))


def cnn(path="", device=None):
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, device=device), nn.BatchNorm2d(4, device=device), nn.ReLU(), nn.Flatten(),
        nn.Linear(144, 3, device=device)
    )


def unet(path):
    return UNet()


def cnn_without_memory(path):
    return cnn(path, "meta")


def wider(path):
    return nn.Sequential(nn.Conv2d(1, 5, 3))


def failing(path):
    raise KeyError("no such net")


def no_module(path):
    return {"a": 1}


def images():
    return torch.randn(24, 1, 8, 8, generator=torch.Generator().manual_seed(5))


def sharpness(model, tokenizer, items):
    """How close each output is to that of a net in the middle between the two: higher is better."""
    assert tokenizer is None and not model.training
    outputs = model(images()).flatten(1)
    differences = outputs - TARGETS[type(model).__name__]
    return {item: float(-differences[int(item)].square().mean()) for item in items}


sharpness.items = [str(number) for number in range(24)]
TARGETS = {}
'''
SCORER = """
import json, sys
from safetensors.numpy import load_file
(file,) = __import__("pathlib").Path(sys.argv[1]).glob("*.safetensors")
weights = load_file(file)
total = sum(float(abs(value).mean()) for value in weights.values() if value.dtype.kind == "f")
items = open(sys.argv[2]).read().split()
print(json.dumps({item: -abs(total * (1 + 0.01 * int(item)) - 1.0) for item in items}))
"""
SEARCH = {"trials": 6, "racing": False, "sampler": "random"}


@pytest.fixture
def nets(tmp_path: Path) -> Path:
    """The user's file, in a folder with two trained nets of each kind and a base."""
    (tmp_path / "nets.py").write_text(NETS)
    (tmp_path / "scorer.py").write_text(SCORER)
    return tmp_path


def module(nets: Path) -> Any:
    from mergesearch.plugins import load

    class Loaded:
        cnn, unet, images, targets = (load(f"{nets}/nets.py:{name}") for name in ("cnn", "unet", "images", "TARGETS"))

    return Loaded


def state(net: nn.Module, seed: int) -> dict[str, Tensor]:
    """Values of one net, with batch norms that saw data."""
    generator = torch.Generator().manual_seed(seed)

    def values(name: str, tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return torch.full_like(tensor, 10 + seed)
        noise = 0.3 * torch.randn(tensor.shape, generator=generator)
        return noise.abs() + 0.5 if name.endswith("running_var") else noise

    return {name: values(name, tensor) for name, tensor in net.state_dict().items()}


def save_nets(nets: Path, kind: str, form: str) -> list[str]:
    """Writes a base and two nets, and sets the target half way between the two. Returns the references."""
    user = module(nets)
    net = user.cnn() if kind == "cnn" else user.unet("")
    states = [state(net, seed) for seed in range(3)]
    references = []
    for name, tensors in zip(("base", "one", "two"), states, strict=True):
        folder = nets / name
        folder.mkdir()
        stem = "diffusion_pytorch_model" if form == "diffusers" else "model"
        save_file(tensors, folder / f"{stem}.safetensors")
        if form == "diffusers":
            size = 16 if name == "two" else 8
            (folder / "config.json").write_text(json.dumps({"_class_name": "UNet2DModel", "sample_size": size}))
        references.append(str(folder / "model.safetensors") if form == "file" else str(folder))
    middle = {name: (states[1][name] + states[2][name]) / 2 for name in states[1]}
    net.load_state_dict({name: value.to(states[1][name].dtype) for name, value in middle.items()})
    with torch.no_grad():
        user.targets[type(net).__name__] = net.eval()(user.images()).flatten(1)
    return references


def config_of(references: list[str], builder: str | None, task: dict[str, Any]) -> dict[str, Any]:
    weights: list[dict[str, Any]] = [
        {"model": reference, "parameters": {"weight": {"search": [0.0, 1.0]}}} for reference in references[1:]
    ]
    recipe = {"merge_method": "task_arithmetic", "base_model": references[0], "models": weights}
    data = {"recipe": recipe, "evaluate": {"tasks": [task], "split": {"search": 0.5, "test": 0.5}}, "search": SEARCH}
    return {**data, "output": {"name": "nets"}, **({"builder": builder} if builder else {})}


def function(nets: Path) -> dict[str, Any]:
    return {"evaluator": f"{nets}/nets.py:sharpness", "task": "sharp"}


def command(nets: Path) -> dict[str, Any]:
    run = [sys.executable, str(nets / "scorer.py"), "{model}", "{items}"]
    return {"evaluator": "command", "task": "sum", "command": run, "items": [str(number) for number in range(8)]}


@pytest.mark.parametrize(("kind", "form"), [("cnn", "file"), ("cnn", "folder"), ("unet", "diffusers")], ids=str)
def test_a_search_with_a_function(kind: str, form: str, nets: Path) -> None:
    references = save_nets(nets, kind, form)
    config = config_of(references, f"{nets}/nets.py:{kind}", function(nets))
    verdict = go(config, nets / "results")
    assert verdict.trials == SEARCH["trials"]
    folder = nets / "results" / "nets" / "model"
    written = next(iter(folder.glob("*.safetensors")))
    assert written.name == ("diffusion_pytorch_model" if form == "diffusers" else "model") + ".safetensors"
    user = module(nets)
    net = user.cnn() if kind == "cnn" else user.unet("")
    net.load_state_dict(load_file(written), strict=True)
    run = Run.read(nets / "results" / "nets")
    built = run.recommended.build().model.state_dict()
    assert built.keys() == net.state_dict().keys()
    assert all(torch.equal(built[name], value) for name, value in net.state_dict().items())
    assert_merged(run.recommended.recipe, references, net.state_dict())


def assert_merged(recipe: Recipe, references: list[str], result: dict[str, Tensor]) -> None:
    """Compares a weighted mean of the models, which the target is, with float64. Counters are the first model's."""
    assert recipe.merge_method == "linear"
    tensors = {reference: load_file(find_weights(Path(reference)).path) for reference in references}
    weights = {entry.model: float(entry.parameters["weight"]) for entry in recipe.models}
    for name, value in result.items():
        mean = sum(weight * tensors[model][name].double() for model, weight in weights.items()) / sum(weights.values())
        expected = mean if value.is_floating_point() else tensors[next(iter(weights))][name].double()
        torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("kind", "form"), [("cnn", "file"), ("unet", "diffusers")])
def test_a_search_with_a_program_needs_no_builder(kind: str, form: str, nets: Path) -> None:
    references = save_nets(nets, kind, form)
    verdict = go(config_of(references, None, command(nets)), nets / "results")
    assert verdict.trials == SEARCH["trials"]
    written = next(iter((nets / "results" / "nets" / "model").glob("*.safetensors")))
    user = module(nets)
    (user.cnn() if kind == "cnn" else user.unet("")).load_state_dict(load_file(written), strict=True)


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments, catch_exceptions=False)


def test_check_eval_and_soup(nets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(nets)
    references = save_nets(nets, "cnn", "file")
    config = config_of(references, "nets.py:cnn", function(nets))
    (nets / "c.yml").write_text(dump_yaml(config))
    checked = invoke("check", "c.yml")
    assert (checked.exit_code, "ready to run" in checked.output) == (0, True), checked.output
    assert f"runs code: the builder {nets.resolve()}/nets.py:cnn" in checked.output
    scored = invoke("eval", references[1], "c.yml", "--json")
    value = json.loads(scored.stdout)["tasks"]["sharp"]["score"]
    net = module(nets).cnn()
    net.load_state_dict(load_file(references[1]))
    with torch.no_grad():
        outputs = net.eval()(module(nets).images()).flatten(1)
    expected = -(outputs - module(nets).targets["Sequential"]).square().mean()
    assert value == pytest.approx(float(expected), rel=1e-5)
    recipe = config.pop("recipe")
    config.pop("search")
    config["soup"] = {"models": [entry["model"] for entry in recipe["models"]], "check_heads": False}
    (nets / "soup.yml").write_text(dump_yaml(config))
    made = invoke("soup", "soup.yml")
    assert made.exit_code == 0, made.output
    assert read_yaml(nets / "results" / "runs" / "nets" / "best.yml")["merge_method"] == "linear"


@pytest.mark.parametrize(
    ("builder", "said"),
    [
        ("nets.py:wider", "the builder's module differs from the file in 0.bias ([4] in the file, [5] in the module)"),
        ("nets.py:failing", "/nets.py:failing("),
        ("nets.py:no_module", "/nets.py:no_module returned {'a': 1}, expected a torch.nn.Module"),
        ("nets.py:TARGETS", "expected a function"),
        ("nets.py:cnnn", "did you mean 'cnn'"),
        ("none.py:cnn", "none.py: there is no such file"),
        ("no_such_module:cnn", "no_such_module: cannot be imported"),
        (None, "has no config.json to make a model by; give a folder that has one, or set `builder` in the config"),
    ],
    ids=str,
)
def test_what_is_wrong_with_a_builder(
    builder: str | None, said: str, nets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(nets)
    config = config_of(save_nets(nets, "cnn", "file"), builder, function(nets))
    with pytest.raises(UserError) as caught:
        go(config, nets / "results")
    assert said in str(caught.value)


def test_a_builder_that_allocates_nothing(nets: Path) -> None:
    references = save_nets(nets, "cnn", "folder")
    config = config_of(references, f"{nets}/nets.py:cnn_without_memory", function(nets))
    assert go({**config, "search": {**SEARCH, "trials": 5}}, nets / "results").trials == 5


@pytest.mark.parametrize("kind", ["bits_per_byte", "perplexity"])
def test_a_builder_beside_tasks_of_texts(kind: str, nets: Path) -> None:
    task = {"evaluator": kind, "task": "prose", "files": ["*.txt"]}
    config = config_of(save_nets(nets, "cnn", "file"), f"{nets}/nets.py:cnn", task)
    with pytest.raises(ValueError, match=f"task 'prose': {kind} needs a model of transformers, found builder"):
        Config.model_validate(config)


@pytest.mark.parametrize("key", ["quantization", "ensemble"])
def test_a_builder_beside_what_needs_transformers(key: str, nets: Path) -> None:
    config = config_of(save_nets(nets, "cnn", "file"), f"{nets}/nets.py:cnn", function(nets))
    config["evaluate"][key] = "4bit" if key == "quantization" else True
    with pytest.raises(ValueError, match=f"evaluate.{key}: found beside builder"):
        open_plan(Config.model_validate(config), "config")
