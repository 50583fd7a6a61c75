"""Passes over memory that the thresholds of merge methods cost, by counting and by sorting.

    python benchmarks/thresholds.py [--small] [--threads 2]

A pass is the time in which the base and the models are read once, at the bandwidth of the fastest copy. Both ways are
measured in turn, the fastest of several times counts, and both must give the same numbers. Prints a table and writes
results/benchmarks/thresholds.json.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import click
import torch
from machine import write_result
from memory_copies import Copies, timed
from merge_throughput import table
from rich.console import Console
from torch import Tensor

from mergesearch.merge_ops.kernels.numbers import Numbers
from mergesearch.merge_ops.kernels.ranking import Layout, Ranges, Ranking
from mergesearch.merge_ops.kernels.torch_backend import spread_of
from mergesearch.merge_ops.methods._ranked import row_ranks

AIM = 6.0
ROW = 4096
COPIED = 1 << 28
"""Bytes of the copies that measure the bandwidth: more than any cache holds."""
DENSITY, NEXT_DENSITY, GAMMA = 0.4, 0.37, 0.01
COLUMNS = {
    "dtype": "dtype",
    "what": "what",
    "counting": "passes by counting",
    "sorting": "passes by sorting",
    "ratio": "sorting / counting",
}


@dataclass
class Case:
    """A base and two fine-tunes."""

    base: Tensor
    models: list[Tensor]

    @classmethod
    def of(cls, dtype: torch.dtype, rows: int) -> "Case":
        generator = torch.Generator().manual_seed(0)
        base, *changes = (torch.randn(rows, ROW, generator=generator) for _ in range(3))
        return cls((base * 0.02).to(dtype), [(base * 0.02 + change * 1e-3).to(dtype) for change in changes])

    @property
    def factors(self) -> Tensor:
        return torch.linspace(0.5, 1.5, self.base.shape[0])

    def ranks(self, *fractions: float) -> list[int]:
        return [int(self.base.numel() * fraction) for fraction in fractions]

    def magnitudes(self) -> Numbers:
        return Numbers("magnitude", self.base, self.models[:1])

    def deltas(self) -> list[Tensor]:
        return [(model.float() - self.base.float()).view(-1) for model in self.models]


def of_sorted(numbers: Tensor, ranks: list[int]) -> list[float]:
    """Sorts in place, with numpy, which has vector instructions for it."""
    ascending = numbers.view(-1).numpy()
    ascending.sort()
    return [float(ascending[-rank]) for rank in ranks]


def of_counted(numbers: Numbers, ranks: list[int], ranges: Ranges | None = None) -> list[float]:
    known = Ranges(Layout(torch.float32, numbers.signed)) if ranges is None else ranges
    return Ranking(lambda: [numbers], known, numbers.size).largest_of(ranks)


def ranks_sorted(case: Case) -> list[int]:
    order = (case.models[0].float() - case.base.float()).abs().argsort(dim=1, stable=True)
    ranks = torch.empty(order.shape, dtype=torch.int16)
    ranks.scatter_(1, order, torch.arange(ROW, dtype=torch.int16).expand_as(order))
    return ranks.view(-1).tolist() if ranks.numel() < 1 << 16 else [int(ranks.long().sum()), *ranks[-1].tolist()]


def ranks_counted(case: Case) -> list[int]:
    ranks = row_ranks(case.base, case.models[:1])[: case.base.numel()].view(case.base.shape)
    return ranks.view(-1).tolist() if ranks.numel() < 1 << 16 else [int(ranks.long().sum()), *ranks[-1].tolist()]


def ways(case: Case) -> Iterator[tuple[str, int, Callable[[], Any], Callable[[], Any]]]:
    """What is measured, the number of models that it reads, and both ways."""
    one, two, again = case.ranks(DENSITY), case.ranks(DENSITY, GAMMA), case.ranks(NEXT_DENSITY)
    spreads = Numbers("spread", case.base, case.models)
    importances = Numbers("importance", case.base, case.models[:1], case.factors)
    known, quarters = Ranges(), case.ranks(0.25, 0.5, 0.75)
    of_counted(case.magnitudes(), one, known)

    def refined() -> list[float]:
        known.refined.clear()
        return of_counted(case.magnitudes(), again, known)

    def magnitudes() -> Tensor:
        return case.deltas()[0].abs_()

    yield "ties: one density", 1, lambda: of_counted(case.magnitudes(), one), lambda: of_sorted(magnitudes(), one)
    yield "ties: the next density of a search", 1, refined, lambda: of_sorted(magnitudes(), again)
    yield "breadcrumbs", 1, lambda: of_counted(case.magnitudes(), two), lambda: of_sorted(magnitudes(), two)
    yield "sce", 2, lambda: of_counted(spreads, one), lambda: of_sorted(spread_of(case.deltas()), one)
    yield (
        "arcee_fusion",
        1,
        lambda: of_counted(importances, quarters),
        lambda: of_sorted(magnitudes().view(-1, ROW) * case.factors[:, None], quarters),
    )
    yield "della: ranks in rows", 1, lambda: ranks_counted(case), lambda: ranks_sorted(case)


def measure(case: Case, repeats: int) -> Iterator[dict[str, Any]]:
    """One row for each of ``ways``."""
    copies = Copies({"": torch.zeros(COPIED // 4)})
    for what, models, counting, sorting in ways(case):
        if counting() != sorting():
            raise click.ClickException(f"{what}: counting and sorting differ")
        seconds = [(timed(counting), timed(sorting), 1 / copies.bandwidth()) for _ in range(repeats)]
        counted, ordered, per_byte = map(min, zip(*seconds, strict=True))  # other programs only add time
        once = (1 + models) * case.base.nbytes * per_byte
        yield {"what": what, "counting": counted / once, "sorting": ordered / once, "ratio": ordered / counted}


@click.command(help=__doc__)
@click.option("--small", is_flag=True, help="small tensors, once; writes no file")
@click.option("--threads", default=os.cpu_count(), help="threads of both ways")
@click.option("--rows", default=2048, help=f"rows of {ROW} elements")
@click.option("--repeats", default=5)
def main(small: bool, threads: int, rows: int, repeats: int) -> None:
    torch.set_num_threads(threads)
    found, rows = [], 16 if small else rows
    for dtype in (torch.float32, torch.bfloat16):
        case = Case.of(dtype, rows)
        found += [{"dtype": str(dtype)[6:], **row} for row in measure(case, 1 if small else repeats)]
    if not small:
        write_result("thresholds", {"aim": AIM, "elements": rows * ROW, "rows": found})
    Console(width=120).print(table(found, COLUMNS, f"thresholds of {rows * ROW:,} elements"))


if __name__ == "__main__":
    main()
