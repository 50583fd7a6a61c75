"""Which layers of the winner, and of the recommended model, come from which model: maps of effective coefficients."""

from collections.abc import Mapping, Sequence
from itertools import groupby

from mergesearch.errors import UserError
from mergesearch.search.report.layers_page import change_of, coefficient_of, named_parts
from mergesearch.search.report.page.elements import details, note, section, small_figures
from mergesearch.search.report.page.heat import Heat, heat_map
from mergesearch.search.space.paths import model_labels
from mergesearch.search.study.run_store import RunStore
from mergesearch.search.verdict.layers import LayerRow, read_layers
from mergesearch.search.verdict.result import Verdict
from mergesearch.text import as_html

MOST_CELLS = 3_000
"""The most cells of the maps of modules, of all candidates together."""
FULL = 1.0
"""The coefficient with the full colour, where none is larger."""
EXPLAINED = (
    "Effective coefficients, read off the built tensors: the weighted sum of the models' changes from the base that "
    "comes nearest to the candidate's change. The pointer shows how far each model is from the base there. "
    "Change: how far the candidate is. Explained: the share of its squared change that the coefficients account for; "
    "100 % for weighted sums, less for methods that trim, elect signs or draw at random, and for layers whose modules "
    "have different coefficients."
)
WITHOUT_BASE = (
    "There is no base: the coefficients are those of the models' own weights, the change is counted from the nearest "
    "model, and how far a model is from the models' mean."
)
Labels = Mapping[str, str]


def layers(store: RunStore, _: Verdict) -> str:
    """For each candidate a map by layer and one for each module; empty where the run has none."""
    try:
        rows = read_layers(store.folder.path)
    except UserError:  # the run was judged by a version that wrote none
        return ""
    by_trial = [list(of_candidate) for _, of_candidate in groupby(rows, key=lambda row: row.trial)]
    most = MOST_CELLS // max(1, len(by_trial))
    return section(
        "Which layers come from which model",
        *([note(EXPLAINED)] if rows else []),
        *(_candidate(of_candidate, most, several=len(by_trial) > 1) for of_candidate in by_trial),
    )


def _candidate(rows: Sequence[LayerRow], most: int, several: bool) -> str:
    labels = model_labels(list(dict.fromkeys(row.model for row in rows)))
    largest = max([FULL, *(abs(row.coefficient) for row in rows)])
    caption = f"{rows[0].candidate} by layer, all modules together."
    heads = ["part", *labels.values(), "change", "explained"]
    whole = [(name, [*_cells(part, labels), *change_of(part)]) for name, part in named_parts(rows).items()]
    maps = _modules(rows, labels, largest)
    shown = maps[: max(1, most * len(maps) // len(rows))]
    left = f" ({len(shown)} of {len(maps)}; the others are in layers.parquet)" if len(shown) < len(maps) else ""
    return "".join(
        [
            f"<h3>{as_html(rows[0].candidate)}</h3>" if several else "",
            "" if rows[0].base else note(WITHOUT_BASE),
            heat_map(caption, heads, whole, largest),
            details(f"By module{left}", f"<div class=heat-maps>{small_figures(shown)}</div>"),
        ]
    )


def _modules(rows: Sequence[LayerRow], labels: Labels, largest: float) -> list[str]:
    """A map of layers by models for each module of each stack of layers."""
    by_module: dict[tuple[str, str], dict[int, list[LayerRow]]] = {}
    for row in rows:
        if row.layer is not None and row.module:
            by_module.setdefault((row.stack, row.module), {}).setdefault(row.layer, []).append(row)
    several = len({stack for stack, _ in by_module}) > 1
    return [
        heat_map(
            f"{stack} {module}" if several else module,
            ["layer", *labels.values()],
            [(str(layer), _cells(part, labels)) for layer, part in sorted(parts.items())],
            largest,
        )
        for (stack, module), parts in by_module.items()
    ]


def _cells(part: Sequence[LayerRow], labels: Labels) -> list[Heat | str]:
    """A cell for each model; empty where it is no input."""
    return [_cell([row for row in part if row.model == model]) for model in labels]


def _cell(rows: Sequence[LayerRow]) -> Heat | str:
    if not rows:
        return ""
    text = " ".join(
        f"{coefficient_of(row):.2f}{'' if row.source is None else f' of layer {row.source}'}" for row in rows
    )
    return Heat(sum(row.coefficient for row in rows), text, f"{rows[0].delta:.1%}")
