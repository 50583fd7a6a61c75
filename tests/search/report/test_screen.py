"""Tables show every name and number, however narrow the terminal is."""

from io import StringIO

import pytest

from mergesearch.search.report.screen import _Screen, print_table


def printed(width: int, heads: list[str], rows: list[list[str]], numbers: bool) -> list[str]:
    out = StringIO()
    print_table(_Screen(file=out, width=width), "title", heads, rows, numbers=numbers)
    return out.getvalue().splitlines()


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
@pytest.mark.parametrize("numbers", [True, False])
def test_every_name_and_number_is_shown(width: int, numbers: bool) -> None:
    heads = ["", "search", "test", *(f"task_{n}" for n in range(9))]
    rows = [
        [f"name_{n}_{'x' * 10 * n}", *(f"0.{n}{place} [0.{n}{place}, 0.{n}{place}]" for place in range(11))]
        for n in range(4)
    ]
    lines = printed(width, heads, rows, numbers)
    assert max(map(len, lines)) <= width
    for cell in (cell for row in rows for cell in row[1:]):
        assert any(cell in line for line in lines), cell
    assert all(any(f" {head} " in line for line in lines) for head in heads[1:])
    names = "".join(line.split("│")[1].strip() for line in lines if line.startswith("│"))
    assert all(row[0] in names for row in rows)


def test_a_table_that_fits_is_one() -> None:
    lines = printed(80, ["run", "state"], [["a", "finished"]], False)
    assert sum("━┳━" in line for line in lines) == 1
