"""Hash and text of a document's content."""

from mergesearch.evaluators.data.content import content_hash, content_text


def test_text_has_the_values_without_their_fields() -> None:
    assert content_text({"b": ["two", 3], "a": {"c": "one"}}) == "one\ntwo\n3"


def test_hash_depends_on_content_and_not_on_the_order_of_fields() -> None:
    assert content_hash({"a": 1, "b": [2, "ü"]}) == content_hash({"b": [2, "ü"], "a": 1})
    assert content_hash({"a": 1}) != content_hash({"a": 2})
    assert len(content_hash("")) == 64
