"""The documentation matches the code: examples run, tables have what the code declares, links have targets.

A YAML block says after ``yaml`` what it is: a ``config``, a ``space`` (the recipe of a config), a ``recipe``, the
``tasks`` of a config, or keys of its ``evaluate`` or ``search``. A Python block may have a file name, under which other
examples use it.
"""

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest
import torch
import yaml
from pydantic import BaseModel
from pydantic_core import PydanticUndefined
from safetensors.torch import save_file

import mergesearch
from mergesearch.evaluators import EVALUATORS, LoadedModel, open_evaluator
from mergesearch.merge_ops.alignment.spec_file import SpecFile
from mergesearch.merge_ops.assembly.assembly import Assembly
from mergesearch.merge_ops.assembly.merger import Merger
from mergesearch.merge_ops.checkpoint.checkpoint import Checkpoint
from mergesearch.merge_ops.engine.documents import merge_file
from mergesearch.merge_ops.live import live
from mergesearch.merge_ops.methods import METHODS, Method, Parameter
from mergesearch.merge_ops.recipe.recipe import Recipe
from mergesearch.merge_ops.recipe.recovery import Recovery
from mergesearch.parsing import Strict, parse
from mergesearch.search import config as config_module
from mergesearch.search.cli import main
from mergesearch.search.config import Config, Evaluate, Output, Search, constraints, evaluate, search, soup
from mergesearch.search.samplers import SAMPLERS, schedule
from mergesearch.search.space.space import Space
from mergesearch.search.study.config_changes import MAY_CHANGE

ROOT = Path(__file__).parents[1]
DOCS = sorted((ROOT / "docs").glob("*.md"))
API = sorted((ROOT / "docs" / "api").glob("*.md"))
RESULTS = ROOT / "results" / "benchmarks" / "README.md"
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", *DOCS, *API, RESULTS]
LAYERS = 4
MODELS = ("base", "code", "chat", "maths")
FENCE = re.compile(r"^```(\S*)[ ]?([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SECTIONS: dict[str, type[BaseModel]] = {"evaluate": Evaluate, "search": Search, "groups": SpecFile}


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, what is said behind that, and its text."""

    page: Path
    line: int
    language: str
    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks(language: str) -> list[Block]:
    found = []
    for page in PAGES:
        content = page.read_text(encoding="utf-8")
        for match in FENCE.finditer(content):
            line = content.count("\n", 0, match.start()) + 1
            found.append(Block(page, line, match[1], match[2].strip(), match[3]))
    return [block for block in found if block.language == language]


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with stand-ins for the checkpoints of the examples, an adapter, and the examples' own Python files."""
    folder = tmp_path_factory.mktemp("docs")
    for name in MODELS:
        write_model(folder / "models" / name)
    write_adapter(folder / "adapters" / "code")
    for block in blocks("python"):
        if block.kind:
            (folder / block.kind).write_text(block.text)
    (folder / "calibration.txt").write_text("some text to calibrate on\n" * 50)
    return folder


def write_model(folder: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=8,
            hidden_size=8,
            intermediate_size=8,
            num_hidden_layers=LAYERS,
            num_attention_heads=2,
            max_position_embeddings=16,
        )
        LlamaForCausalLM(config).save_pretrained(folder)
    vocabulary = {f"token{number}": number for number in range(8)}
    words = {"type": "WordLevel", "vocab": vocabulary, "unk_token": "token0"}
    tokenizer = {"version": "1.0", "added_tokens": [], "pre_tokenizer": {"type": "Whitespace"}, "model": words}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))


def write_adapter(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 4}))
    module = "base_model.model.model.layers.0.self_attn.q_proj"
    tensors = {f"{module}.lora_A.weight": torch.ones(2, 8), f"{module}.lora_B.weight": torch.ones(8, 2)}
    save_file(tensors, folder / "adapter_model.safetensors")


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize("block", blocks("yaml"), ids=str)
def test_yaml(block: Block, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    if block.kind == "recipe":
        (tmp_path / "recipe.yml").write_text(block.text)
        merge_file(tmp_path / "recipe.yml", tmp_path / "merged")
        return
    data = yaml.safe_load(block.text)
    if block.kind == "config":
        data = {"output": {"name": "my"}, **data}
        check_space(parse(Config, data, str(block)).recipe)
    elif block.kind == "space":
        check_space(data)
    elif block.kind == "tasks":
        parse(Evaluate, {"tasks": data}, str(block))
    else:
        key = block.kind
        given = {"tasks": [{"task": "arc_easy"}], **data} if key == "evaluate" else data
        parse(SECTIONS[key], given, str(block))


def check_space(data: dict[str, Any]) -> None:
    """Every method's first candidate can be merged."""
    space = Space(data, LAYERS, "recipe")
    for method in space.methods:
        recipe = space.fill(method, space.start(method, {}))
        Assembly(Merger(recipe.references), recipe)


def test_there_are_examples() -> None:
    assert {block.kind for block in blocks("yaml")} == {"config", "space", "recipe", "tasks", *SECTIONS}
    assert any(block.page.name == "README.md" for block in blocks("yaml"))


@pytest.mark.parametrize("block", blocks("sh"), ids=str)
def test_commands(block: Block) -> None:
    for line in block.text.splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["mergesearch"] and len(words) > 1:
            check_command(words[1], words[2:])
        elif words and words[0].startswith("scripts/"):
            assert (ROOT / words[0]).is_file(), line


def test_commands_in_configs() -> None:
    lines = [line for file in (ROOT / "configs").glob("*.yml") for line in file.read_text().splitlines()]
    commands = [shlex.split(line[1:]) for line in lines if line.startswith("# mergesearch ")]
    assert commands
    for _, name, *arguments in commands:
        check_command(name, arguments)


def check_command(name: str, arguments: list[str]) -> None:
    assert isinstance(main, click.Group)
    command = main.commands[name]
    command.make_context(name, list(arguments))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?://)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_configs_that_are_named_are_there(page: Path) -> None:
    for name in re.findall(r"\bconfigs/\w+\.yml", page.read_text(encoding="utf-8")):
        assert (ROOT / name).is_file(), f"{page.name}: {name}"


# Tables. What the code declares is in them as it declares it; the message is the row to put there.


@pytest.mark.parametrize("method", METHODS.values(), ids=lambda method: method.name)
def test_methods(method: Method) -> None:
    assert method_row(method) in text("methods.md").splitlines()


def test_no_other_methods() -> None:
    table = text("methods.md").split("## Table of methods")[1].split("\n## ")[0]
    rows = [row for row in table.splitlines() if re.match(r"\| `\w+` \|", row)]
    assert sorted(rows) == sorted(method_row(method) for method in METHODS.values())


def method_row(method: Method) -> str:
    title, _, link = method.paper.rpartition(", ")
    paper = f"[{title}]({link})" if title else method.paper
    parameters = ", ".join(parameter_in_words(parameter) for parameter in method.parameters) or "none"
    return f"| `{method.name}` | {method.summary} | {inputs_in_words(method)} | {parameters} | {paper} |"


def inputs_in_words(method: Method) -> str:
    most = "or more" if method.max_models is None else f"to {method.max_models}"
    count = str(method.min_models) if method.min_models == method.max_models else f"{method.min_models} {most}"
    return {"required": f"base + {count}", "optional": f"{count}, base optional", "input": count}[method.base]


def parameter_in_words(parameter: Parameter) -> str:
    star = "\\*" if parameter.per_model else ""
    return f"`{parameter.name}`{star} {shown(parameter.default, 'required')}"


def shown(value: object, missing: str) -> str:
    if value is None:
        return missing
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def models_of(module: Any) -> Iterator[type[BaseModel]]:
    for value in vars(module).values():
        if isinstance(value, type) and issubclass(value, Strict) and value.__module__ == module.__name__:
            yield value


CONFIG_MODELS = [
    model for module in (config_module, evaluate, search, soup, constraints, schedule) for model in models_of(module)
]


@pytest.mark.parametrize("model", CONFIG_MODELS, ids=lambda model: model.__name__)
def test_config_keys(model: type[BaseModel]) -> None:
    """Each key with its default, in the table of its section."""
    section = section_of(text("config.md"), model.__name__)
    own = {name: field for name, field in model.model_fields.items() if name not in ("options", *inherited(model))}
    assert sorted(keys_in(section)) == sorted(own)
    for name, field in own.items():
        assert row_start(name, field) in section, f"{model.__name__}: {row_start(name, field)}"


def test_recovery_keys() -> None:
    section = section_of(text("recovery.md"), Recovery.__name__)
    own = {field.alias or name: field for name, field in Recovery.model_fields.items()}
    assert sorted(keys_in(section)) == sorted(own)
    for name, field in own.items():
        assert row_start(name, field) in section, row_start(name, field)


def inherited(model: type[BaseModel]) -> set[str]:
    """Keys that stand in another model's table."""
    return {name for base in model.__mro__[1:] if base in CONFIG_MODELS for name in base.model_fields}


def section_of(page: str, name: str) -> str:
    """The part of the page behind the comment that names the model."""
    mark = f"<!-- {name} -->"
    assert mark in page, f"{mark} marks the table of {name}"
    return re.split(r"<!-- |^#", page.split(mark, 1)[1], maxsplit=1, flags=re.MULTILINE)[0]


def keys_in(section: str) -> list[str]:
    return re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)


def row_start(name: str, field: Any) -> str:
    return f"| `{name}` | {default_of(field)} |"


def default_of(field: Any) -> str:
    if field.is_required():
        return "required"
    value = field.default_factory() if field.default is PydanticUndefined else field.default
    if isinstance(value, BaseModel):
        return "see below"
    if value is None or value in ([], {}):
        return "none"
    return shown(value, "none")


def test_evaluators() -> None:
    page = text("evaluators.md")
    for name, kind in EVALUATORS.items():
        section = section_of(page, name)
        assert f"evaluator: {name}" in section or name == "lm_eval"
        assert sorted(keys_in(section)) == sorted(kind.Options.model_fields)
        for key, field in kind.Options.model_fields.items():
            assert option_row(key, field) in section, f"{name}: {option_row(key, field)}"


def option_row(name: str, field: Any) -> str:
    """The whole row where the code describes the option, else its beginning."""
    described = f" {field.description} |" if field.description else ""
    return f"{row_start(name, field)}{described}"


def test_samplers() -> None:
    rows = text("search.md").splitlines()
    for name, kind in SAMPLERS.items():
        row = f"| `{name}` | {kind.summary} | {kind.dimensions}"
        assert {f"{row} |", f"{row} dimensions |"} & {*rows}, row


@pytest.mark.parametrize("name", sorted(main.commands))
def test_commands_and_options(name: str) -> None:
    """Each command has a section with a table of its options, and what an option overrides is a key of the config."""
    section = section_of(text("commands.md"), name)
    rows = re.findall(r"^\| `--([\w-]+)` \| (\S+) \|", section, re.MULTILINE)
    given = [option for option in main.commands[name].params if isinstance(option, click.Option) and not option.hidden]
    options = [option.opts[0] for option in given]
    assert sorted(f"--{option}" for option, _ in rows) == sorted(options)
    for option, overridden in rows:
        if overridden != "none":
            part, _, key = overridden.strip("`").rpartition(".")
            assert key == option
            assert key in {"": Config, "search": Search, "output": Output}[part].model_fields


def test_every_command_is_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    cells = re.findall(r"^\| (`mergesearch [^|]*)", readme, re.MULTILINE)
    assert {name for cell in cells for name in re.findall(r"`mergesearch (\w+)", cell)} == {*main.commands}


def test_keys_that_may_change() -> None:
    """The table of keys that another call on the same run may change."""
    section = text("search.md").split("## Resuming")[1].split("\n#")[0]
    rows = re.findall(r"^\| `(\w+)` \| (.*) \|$", section, re.MULTILINE)
    keys = {(part, key) for part, names in rows for key in re.findall(r"`(\w+)`", names)}
    assert keys | {("threads",), ("track",), ("trust",), ("workers",)} == MAY_CHANGE


def test_reference() -> None:
    """The reference has all that is public, and every method."""
    assert sorted(re.findall(r"^::: mergesearch\.(\w+)$", text("api/mergesearch.md"), re.MULTILINE)) == sorted(
        mergesearch.__all__
    )
    page = text("api/methods.md")
    rows = re.findall(r"\{members: \[([A-Z_, ]+)\]", page)
    methods = re.findall(r"^::: mergesearch\.merge_ops\.methods\.(\w+)$", page, re.MULTILINE)
    methods += ", ".join(rows).lower().split(", ")
    assert [name for name in METHODS if name not in methods] == []


def test_recipe_keys() -> None:
    page = text("recipes.md")
    assert [name for name in Recipe.model_fields if f"`{name}`" not in page] == []


def test_pages_are_linked_from_the_readme() -> None:
    """Or from pages that are."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    linked = [page for page in DOCS if f"docs/{page.name}" in readme]
    further = [page for page in DOCS if any(f"({page.name}" in text(other.name) for other in linked)]
    assert [page.name for page in DOCS if page not in (*linked, *further)] == []
    assert len(readme.splitlines()) < 200


def test_pages_are_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert [page.name for page in PAGES if str(page.relative_to(ROOT)) not in navigation] == []


def text(page: str) -> str:
    return (ROOT / "docs" / page).read_text(encoding="utf-8")


def test_python_is_used_by_an_example() -> None:
    """A Python block that is a file is named in a YAML block."""
    examples = "".join(block.text for block in blocks("yaml"))
    assert any(block.kind for block in blocks("python"))
    assert [str(block) for block in blocks("python") if f"{block.kind}:" not in examples] == []


@pytest.mark.parametrize("name", ["judges.py:politeness", "length.py:Length"])
def test_evaluators_of_the_examples_score(name: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    tasks = [task for block in blocks("yaml") if block.kind == "tasks" for task in yaml.safe_load(block.text)]
    evaluate = parse(Evaluate, {"tasks": [task for task in tasks if name in task.values()]}, name)
    subject = LoadedModel(*live.load(Checkpoint("models/base"), "cpu"))
    for entry in evaluate.tasks:
        evaluator = open_evaluator(entry.evaluator, entry.options, evaluate.shared())
        assert evaluator.score(subject, evaluator.items).isfinite().all()
        assert len(evaluator.items) > 1
