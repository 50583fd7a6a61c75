"""Near-duplicates: the same groups as by comparing all pairs, and none because of a common template."""

import random

from mergesearch.evaluators.data.near_duplicates import near_duplicate_groups

from ..helpers import random_documents


def brute_force(texts: dict[str, str]) -> set[tuple[str, str]]:
    """Every pair whose shingles have a Jaccard index of 0.7 or more."""
    sets = {name: set(zip(*(text.lower().split()[i:] for i in range(5)), strict=False)) for name, text in texts.items()}
    return {(a, b) for a in sets for b in sets if a < b and len(sets[a] & sets[b]) >= 0.7 * len(sets[a] | sets[b])}


def test_near_duplicates_are_found_as_by_comparing_all_pairs() -> None:
    texts = {f"{number:03}": text for number, text in enumerate(random_documents())}
    rng = random.Random(1)
    for number in range(100, 140):
        copied = texts[f"{rng.randrange(60):03}"].split()
        for _ in range(rng.randrange(4)):
            copied[rng.randrange(40)] = "changed"
        texts[f"{number}"] = " ".join(copied).upper()
    groups, alike = near_duplicate_groups(texts), brute_force(texts)
    assert len(alike) > 20
    assert all(groups[a] == groups[b] for a, b in alike)
    linked = {name for pair in alike for name in pair}
    assert all(groups[name] == name for name in texts if name not in linked)


def test_short_questions_of_one_template_are_no_duplicates() -> None:
    texts = {str(n): f"What is {n} plus {m}?" for n in range(10) for m in range(3)}
    assert near_duplicate_groups(texts) == {name: name for name in texts}


def test_a_template_that_all_questions_share_makes_no_duplicates() -> None:
    template = "Read the question with care, think step by step, and answer with the letter of the one right choice: {}"
    texts = {f"{number:03}": template.format(text[:20]) for number, text in enumerate(random_documents())}
    assert near_duplicate_groups(texts) == {name: name for name in texts}
