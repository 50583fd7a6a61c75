"""Makes the links of README.md absolute for the package index, which shows the page outside of the repository.

The address of the documentation is ``Documentation`` under ``[project.urls]`` of pyproject.toml, and nowhere else.
Without it the links become plain text, so that none is dead.
"""

import re
import tomllib
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).parent
IMAGE = re.compile(r"!\[([^\]]*)\]\((?!https?://|#)([^)]+)\)\n*")
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((?!https?://|#)([^)#]*)(#[^)]*)?\)")


def address() -> str | None:
    """The address of the documentation, with a slash at its end; None where it is not known."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    url = project.get("urls", {}).get("Documentation")
    return f"{url.rstrip('/')}/" if url else None


def long_description(readme: str, base: str | None) -> str:
    """README.md with absolute links; the site has the repository's files under their paths, pages as folders."""
    if base is None:
        return LINK.sub(r"\1", IMAGE.sub("", readme))

    def absolute(match: re.Match[str]) -> str:
        text, path, anchor = match.groups()
        return f"[{text}]({base}{page_of(path)}{anchor or ''})"

    return LINK.sub(absolute, IMAGE.sub(lambda match: f"![{match[1]}]({base}{match[2]})\n\n", readme))


def page_of(path: str) -> str:
    """The path of a file in the site, where a page of Markdown is a folder."""
    return re.sub(r"(^|/)README[.]md$|[.]md$", "/", path).removeprefix("/")


if __name__ == "__main__":
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    setup(long_description=long_description(text, address()), long_description_content_type="text/markdown")
