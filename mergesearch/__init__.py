"""mergesearch: search for the best merge of language models, and prove it on items that the search never saw.

    import mergesearch

    run = mergesearch.run("my.yml")
    print(run.verdict.sentence)
    model, tokenizer = run.best.build()

The names in ``__all__`` are the public interface. Each is imported on first access, so that the import is quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mergesearch.errors import UserError
    from mergesearch.merge_ops.engine.engine import Engine
    from mergesearch.merge_ops.recipe.recipe import Recipe
    from mergesearch.search.across.pairing import PairedComparison
    from mergesearch.search.api.commands import merge, run
    from mergesearch.search.api.finished import Best, Built, Run
    from mergesearch.search.compare import compare
    from mergesearch.search.config import Config
    from mergesearch.search.remerge import remerge
    from mergesearch.search.verdict.result import Verdict
    from mergesearch.trust import trust_code

__all__ = [
    "Best",
    "Built",
    "Config",
    "Engine",
    "PairedComparison",
    "Recipe",
    "Run",
    "UserError",
    "Verdict",
    "compare",
    "merge",
    "remerge",
    "run",
    "trust_code",
]

_HOMES = {
    "Best": "search.api.finished",
    "Built": "search.api.finished",
    "Config": "search.config",
    "Engine": "merge_ops.engine.engine",
    "PairedComparison": "search.across.pairing",
    "Recipe": "merge_ops.recipe.recipe",
    "Run": "search.api.finished",
    "UserError": "errors",
    "Verdict": "search.verdict.result",
    "compare": "search.compare",
    "merge": "search.api.commands",
    "remerge": "search.remerge",
    "run": "search.api.commands",
    "trust_code": "trust",
}


def __getattr__(name: str) -> Any:
    """Imports a public name from its module (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
