"""The leaderboard as one HTML page, which sorts and filters by itself, without a network."""

from collections.abc import Iterator
from math import isfinite

from mergesearch.search.across.leaderboard import Leaderboard, LeaderboardRow, LeaderboardTable
from mergesearch.search.report.leaderboard_page import EXPLAINED, size_in_words, title
from mergesearch.search.verdict.formatting import interval
from mergesearch.text import as_html

STYLE = """
:root { color-scheme: light dark; --ink: light-dark(#1c1e21, #e4e6ea); --soft: light-dark(#5b6068, #a4aab3);
  --line: light-dark(#dfe2e6, #363b42); --page: light-dark(#fff, #16181c); --band: light-dark(#f3f6fa, #20242a);
  --bar: light-dark(#2563a8, #6ea8e6); }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 84rem; padding: 0 1rem; color: var(--ink);
  background: var(--page); }
h1 { font-size: 1.5rem; } h2 { font-size: 1.05rem; margin: 2rem 0 .5rem; } .note { color: var(--soft); }
input { font: inherit; padding: .35rem .6rem; border: 1px solid var(--line); border-radius: 6px; color: inherit;
  background: var(--page); width: 22rem; max-width: 100%; }
.wide { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .3rem .7rem; border-bottom: 1px solid var(--line); white-space: nowrap; }
th.text, td.text { text-align: left; } tbody tr:hover { background: var(--band); }
th button { font: inherit; font-weight: 600; color: inherit; background: none; border: 0; padding: 0; cursor: pointer; }
th[aria-sort=ascending] button::after { content: " \\2191"; }
th[aria-sort=descending] button::after { content: " \\2193"; }
tr.winner td.name { font-weight: 600; } small { color: var(--soft); } .range { position: relative; display: block;
  width: 9rem; height: .5rem; margin: .1rem 0 0 auto; background: var(--band); border-radius: 3px; }
.range i { position: absolute; top: 0; bottom: 0; min-width: 2px; background: var(--bar); opacity: .45; }
"""
SCRIPT = """
const cell = (row, n) => row.cells[n].dataset.value ?? row.cells[n].textContent;
const compare = (a, b) => (a === "") - (b === "") || (isNaN(a) || isNaN(b) ? a.localeCompare(b) : a - b);
for (const table of document.querySelectorAll("table"))
  table.querySelectorAll("th").forEach((head, n) => head.querySelector("button").onclick = () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    table.querySelectorAll("th").forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const rows = [...table.tBodies[0].rows].sort((a, b) => (down ? -1 : 1) * compare(cell(a, n), cell(b, n)));
    table.tBodies[0].append(...rows);
  });
document.querySelector("input").oninput = event => {
  const words = event.target.value.toLowerCase().split(/\\s+/);
  for (const row of document.querySelectorAll("tbody tr"))
    row.hidden = !words.every(word => row.textContent.toLowerCase().includes(word));
};
"""


def leaderboard_html(found: Leaderboard) -> str:
    """The whole page."""
    body = "".join(part for table in found.tables for part in _table(table))
    notes = "".join(f"<p class=note>{as_html(note)}</p>" for note in found.notes)
    return (
        '<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content="width=device-width">'
        f"<title>Leaderboard</title><style>{STYLE}</style><main><h1>Leaderboard</h1>"
        f"<p class=note>{as_html(EXPLAINED)}</p>"
        "<label>Show rows with <input type=search placeholder='a model, a run, a method, winner'></label>"
        f"{body}{notes}</main><script>{SCRIPT}</script></html>\n"
    )


def _table(table: LeaderboardTable) -> Iterator[str]:
    yield f"<h2>{as_html(title(table))}</h2><div class=wide><table><thead><tr>"
    for number, head in enumerate(_heads(table)):
        kind = " class=text" if number in (1, 2, 3) else ""
        yield f"<th scope=col{kind}><button>{as_html(head)}</button></th>"
    yield "</tr></thead><tbody>"
    ends = [end for row in table.rows for end in (row.value.low, row.value.value, row.value.high) if isfinite(end)]
    low, high = min(ends), max(ends)
    for row in table.rows:
        yield f"<tr{' class=winner' if 'winner' in row.roles else ''}>{''.join(_cells(table, row, low, high))}</tr>"
    yield "</tbody></table></div>"


def _heads(table: LeaderboardTable) -> Iterator[str]:
    yield from ("rank", "model", "role", "method", "objective")
    for task in table.tasks:
        yield f"{task.name} {task.metric}{'' if task.higher_is_better else ', less is better'}"
        if any(task.name in row.normalized for row in table.rows):
            yield f"{task.name} normalised"
    yield from ("parameters", "scored")


def _cells(table: LeaderboardTable, row: LeaderboardRow, low: float, high: float) -> Iterator[str]:
    yield f"<td>{row.rank}</td>"
    others = [*row.names[1:], *(f"in {run}" for run in row.runs)]
    yield f"<td class='text name'>{as_html(row.name)} <small>{as_html(', '.join(others))}</small></td>"
    yield from (f"<td class=text>{as_html(text)}</td>" for text in (", ".join(row.roles), row.method))
    yield f"<td data-value={row.value.value!r}>{interval(row.value)}{_range(row, low, high)}</td>"
    for task in table.tasks:
        yield f"<td>{row.tasks[task.name]:.4f}</td>"
        if any(task.name in each.normalized for each in table.rows):
            yield f"<td>{row.normalized[task.name]:.4f}</td>" if task.name in row.normalized else "<td></td>"
    yield f"<td data-value={row.parameters}>{size_in_words(row.parameters)}</td>"
    yield f"<td>{as_html(row.scored.replace('T', ' '))}</td>"


def _range(row: LeaderboardRow, low: float, high: float) -> str:
    """The interval as a bar between the lowest and the highest end of the table."""
    if row.value.is_unbounded or high <= low:
        return ""
    begin, end = (100 * (each - low) / (high - low) for each in (max(row.value.low, low), min(row.value.high, high)))
    return f"<span class=range aria-hidden=true><i style='left:{begin:.1f}%;width:{end - begin:.1f}%'></i></span>"
