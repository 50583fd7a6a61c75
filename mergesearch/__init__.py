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
    from mergesearch.search.across.curve import Curve, TaskCurve
    from mergesearch.search.across.evaluation import Evaluation, TaskScore
    from mergesearch.search.across.pairing import PairedComparison
    from mergesearch.search.api.check_report import CheckReport
    from mergesearch.search.api.commands import check, curve, evaluate, merge, run
    from mergesearch.search.api.finished import Best, Built, Run
    from mergesearch.search.compare import compare
    from mergesearch.search.config import Config
    from mergesearch.search.remerge import remerge
    from mergesearch.search.verdict.result import Verdict
    from mergesearch.trust import trust_code

__all__ = [
    "Best",
    "Built",
    "CheckReport",
    "Config",
    "Curve",
    "Engine",
    "Evaluation",
    "PairedComparison",
    "Recipe",
    "Run",
    "TaskCurve",
    "TaskScore",
    "UserError",
    "Verdict",
    "check",
    "compare",
    "curve",
    "evaluate",
    "merge",
    "remerge",
    "run",
    "trust_code",
]

_HOMES = {
    "Best": "search.api.finished",
    "Built": "search.api.finished",
    "CheckReport": "search.api.check_report",
    "Config": "search.config",
    "Curve": "search.across.curve",
    "Engine": "merge_ops.engine.engine",
    "Evaluation": "search.across.evaluation",
    "PairedComparison": "search.across.pairing",
    "Recipe": "merge_ops.recipe.recipe",
    "Run": "search.api.finished",
    "TaskCurve": "search.across.curve",
    "TaskScore": "search.across.evaluation",
    "UserError": "errors",
    "Verdict": "search.verdict.result",
    "check": "search.api.commands",
    "compare": "search.compare",
    "curve": "search.api.commands",
    "evaluate": "search.api.commands",
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
