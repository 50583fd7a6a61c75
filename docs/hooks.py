"""Hooks of mkdocs: the site has the same files as the repository, so that links between them work in both.

``docs_dir`` is ``docs``, but README.md, CONTRIBUTING.md, CHANGELOG.md, the configs and the benchmark results are not in
it. So every file gets its path from the root of the repository. README.md becomes the home page. A notebook becomes a
page with its text and its code.
"""

import json
import re
import tomllib
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PUBLISHED = (
    "*.md",
    "LICENSE",
    "docs/**/*.md",
    "docs/**/*.png",
    "docs/*.css",
    "docs/*.yml",
    "configs/*.yml",
    "examples/*.ipynb",
    "examples/*.py",
    "examples/*.yml",
    "results/benchmarks/*.md",
    "results/benchmarks/*.json",
)
FENCE = re.compile(r"^```(\w+) (\S+)$", re.MULTILINE)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Takes the address of the site from pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    config.site_url = project.get("urls", {}).get("Documentation")
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Replaces the files of ``docs_dir`` by the published files, with their paths from the root."""
    paths = sorted({path.relative_to(ROOT).as_posix() for pattern in PUBLISHED for path in ROOT.glob(pattern)})
    ours = [File(path, str(ROOT), config.site_dir, config.use_directory_urls) for path in paths]
    ours += [_notebook_page(path, config) for path in sorted(ROOT.glob("examples/*.ipynb"))]
    theme = [file for file in files if Path(str(file.src_dir)).resolve() != Path(config.docs_dir).resolve()]
    return Files([*ours, *theme])


def _notebook_page(path: Path, config: MkDocsConfig) -> File:
    name = path.relative_to(ROOT)
    cells = [(cell["cell_type"], "".join(cell["source"])) for cell in json.loads(path.read_text("utf-8"))["cells"]]
    parts = [text if kind == "markdown" else f"```python\n{text}\n```" for kind, text in cells]
    parts.append(f"[The notebook]({name.name})")
    return File.generated(config, name.with_suffix(".md").as_posix(), content="\n\n".join(parts) + "\n")


def on_page_markdown(markdown: str, **_: object) -> str:
    """Removes the kind of a code block, which tests read; a file name becomes the title of the block."""
    return FENCE.sub(_opening, markdown)


def _opening(match: re.Match[str]) -> str:
    language, kind = match.groups()
    return f'```{language} title="{kind}"' if "." in kind else f"```{language}"
