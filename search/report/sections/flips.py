"""The flips: test items that the winner wins from another candidate, or loses to it, with what each model answered."""

from collections.abc import Iterator, Mapping, Sequence

from mergesearch.errors import UserError
from mergesearch.search.across.finalists import Finalists
from mergesearch.search.across.flips import FlippedItem, Given, flips
from mergesearch.search.report.page.elements import Choice, filters, note, section, table
from mergesearch.search.study.run_store import RunStore
from mergesearch.search.verdict.result import Verdict
from mergesearch.search.verdict.wording import shown_baselines
from mergesearch.text import as_html, as_line

MOST = 50
"""The most items each way and pair."""
BYTES, LEAST_BYTES, OF_TRIAL = 350_000, 150_000, 80
"""The most bytes of the items, less what the figures take of each trial; where they are more, fewer are shown."""
QUESTION, ANSWER, SUMMARY = 800, 300, 110
"""The most characters of a question, of an answer, and of a question that is folded."""
PART = "flips"
TITLE = "Items that turn"
SEALED = (
    "These are test items, shown after the verdict: reading them is no further use of them by the search. Whoever "
    "changes the space, the models or the prompts because of them does tune on them, and needs other test items for "
    "the next verdict."
)


def flips_section(store: RunStore, verdict: Verdict) -> str:
    """How many items turn, and the items with their answers; empty where the run has none."""
    try:
        found = Finalists.read(store.folder.path)
        names = {row.trial: row.name for row in shown_baselines(verdict) if str(row.trial) in found.columns}
        items, counts, most = _chosen(found, verdict, names)
    except UserError:  # the run was judged by a version that kept no documents
        return ""
    if not items:
        return ""
    rows = [[names[trial], f"{won:,}", f"{lost:,}"] for trial, (won, lost) in counts.items()]
    caption = f"Test items on which {verdict.winner.name} does better or worse than each other candidate."
    everything = {verdict.winner.trial: verdict.winner.name, **names}
    return section(
        TITLE,
        table(caption, ["candidate", "winner better", "winner worse"], rows),
        note(
            f"Below are at most {most} items each way and candidate, those with the largest differences. "
            "In Python, run.items and run.answers have all of them."
        ),
        note(SEALED),
        filters(PART, _choices(found, counts, names), "Words", "in the question or in an answer"),
        f'<div id={PART} class=items tabindex=0 role=region aria-label="The items">'
        f"{''.join(_item(found, each, everything) for each in items)}</div>",
    )


def _chosen(
    found: Finalists, verdict: Verdict, names: Mapping[int, str]
) -> tuple[list[FlippedItem], dict[int, tuple[int, int]], int]:
    """The items, the counts, and the most of a pair with which the items are not too many for the page."""
    most, everything = MOST, {verdict.winner.trial: verdict.winner.name, **names}
    room = max(LEAST_BYTES, BYTES - OF_TRIAL * verdict.trials)
    while True:
        items, counts = flips(found, list(names), most)
        if most == 1 or sum(len(_item(found, each, everything).encode()) for each in items) <= room:
            return items, counts, most
        most = max(1, most * 2 // 3)


def _choices(
    found: Finalists, counts: Mapping[int, tuple[int, int]], names: Mapping[int, str]
) -> Mapping[str, Sequence[Choice]]:
    """What the items can be filtered by."""
    pairs = [
        choice
        for trial, (won, lost) in counts.items()
        for choice in (
            Choice(f"better than {names[trial]} ({won:,})", f"w{trial}"),
            Choice(f"worse than {names[trial]} ({lost:,})", f"l{trial}"),
        )
    ]
    tasks = [Choice(task.name, f"t{place}") for place, task in enumerate(found.about.tasks)]
    return {"The winner is": pairs, "Task": tasks if len(tasks) > 1 else []}


def _item(found: Finalists, item: FlippedItem, names: Mapping[int, str]) -> str:
    """An item, folded: its question, and who gave which answer."""
    place = next(at for at, task in enumerate(found.about.tasks) if task.name == item.task)
    tags = [f"t{place}", *(f"w{trial}" for trial in item.won), *(f"l{trial}" for trial in item.lost)]
    rows = "".join(_rows(item, names))
    summary = f"{item.task}: {as_line(' '.join(item.document.question.split()), SUMMARY)}"
    is_said = any(given.answer == item.document.right for given in item.given)
    expected = "" if is_said else item.document.right.strip()
    right = f"<dt>right</dt><dd>{as_html(expected, ANSWER)}</dd>" if expected else ""
    return (
        f'<details class=item data-tags="{" ".join(tags)}"><summary>{as_html(summary)}</summary>'
        f"<p class=quote>{as_html(item.document.question.strip(), QUESTION)}</p><dl>{right}{rows}</dl>"
        f"<p class=note>item {as_html(item.item)}</p></details>"
    )


def _rows(item: FlippedItem, names: Mapping[int, str]) -> Iterator[str]:
    """Who gave which answer, or where answers are not known, who was worth what; and the choices that nobody took."""
    by_answer: dict[tuple[str, float], list[Given]] = {}
    for given in item.given:
        by_answer.setdefault((given.answer, given.worth), []).append(given)
    is_decided = all(worth in (0, 1) for _, worth in by_answer)
    for (answer, worth), everyone in by_answer.items():
        said = answer.strip() if answer.strip() else "" if not is_decided else "right" if worth else "wrong"
        mark = ("\u2713 " if worth else "\u2717 ") if is_decided else f"{worth:.4g} "
        who = ", ".join(as_html(names[given.trial]) for given in everyone)
        yield f"<dt>{mark}{as_html(said, ANSWER)}</dt><dd>{who}</dd>"
    taken = {answer for answer, _ in by_answer}
    for choice in item.document.choices if any(taken) else ():
        if choice not in taken:
            yield f"<dt>{as_html(choice.strip(), ANSWER)}</dt><dd class=note>nobody</dd>"
