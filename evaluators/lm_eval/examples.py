"""Few-shot examples that are neither test items nor the item itself.

lm-eval draws the examples. Those that must not be there are replaced, so that prompts without such examples are those
of lm-eval's command line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from random import Random
from typing import Any

from lm_eval.api.samplers import FirstNSampler

from mergesearch.errors import UserError
from mergesearch.evaluators.contract.item import Item
from mergesearch.evaluators.data.content import content_hash, content_text
from mergesearch.evaluators.data.near_duplicates import words
from mergesearch.evaluators.data.overlap import TextIndex
from mergesearch.seeds import derive

SPARE = 8
"""How many more documents than needed are drawn at first, some of which may be the item itself."""


class TestItems:
    """The test items of all tasks of a config, as documents are compared with them."""

    __test__ = False

    def __init__(self, items: Sequence[Item]) -> None:
        self._fingerprints = {item.fingerprint for item in items}
        self._index = TextIndex({item.fingerprint: item.text for item in items if item.text})

    def include(self, fingerprint: str) -> bool:
        """Whether a document is a test item."""
        return fingerprint in self._fingerprints

    def have(self, fingerprint: str, text: str) -> bool:
        """Whether a document shares content with a test item."""
        return fingerprint in self._fingerprints or bool(self._index.sharing(text))


class Questions:
    """What a task asks about its documents. Examples may be test items with other fields, such as an explanation.

    Questions are compared where they tell documents apart: at least half of the task's are distinct.
    """

    def __init__(self, task: Any, test: Sequence[Mapping[str, Any]], docs: Sequence[Mapping[str, Any]]) -> None:
        """test: The test items among the documents ``docs``."""
        self._task = task
        own = [self._asked_about(doc, None) for doc in docs]
        self._tell_apart = 2 * len({question for question in own if question}) >= len(docs)
        self._test = {self._asked_about(doc, None) for doc in test} - {()}

    def have(self, doc: Mapping[str, Any]) -> bool:
        """Whether a document for examples asks what a test item asks."""
        return self._tell_apart and not self._test.isdisjoint(self._of_example(doc))

    def are_equal(self, example: Mapping[str, Any], doc: Mapping[str, Any]) -> bool:
        """Whether a document for examples asks what a scored document asks."""
        return self._tell_apart and self._asked_about(doc, None) in self._of_example(example) - {()}

    def _of_example(self, doc: Mapping[str, Any]) -> set[tuple[str, ...]]:
        return {self._asked_about(doc, template) for template in (None, self._task.fewshot_cfg.doc_to_text)}

    def _asked_about(self, doc: Mapping[str, Any], template: Any) -> tuple[str, ...]:
        """The question's words; none where the template is not made for such a document."""
        try:
            return tuple(words(str(self._task.doc_to_text(doc, template))))
        except Exception:  # a template may run any code
            return ()


class Examples:
    """The examples of one lm-eval task whose ``num_fewshot`` is above 0.

    Args:
        task: lm-eval's task object, whose prompts get these examples from now on. Raises UserError where it draws them
            in a way of its own.
        docs: The documents that are scored.
        test: The test items.
        group: Field of the documents; documents with equal values count as equal.
    """

    def __init__(self, task: Any, docs: Sequence[Mapping[str, Any]], test: TestItems, group: str | None) -> None:
        if getattr(task, "sampler", None) is None:
            raise UserError(
                f"num_fewshot: task {task.task_name!r} draws its examples by code of its own ({type(task).__name__}), "
                "from which test items cannot be kept out; set num_fewshot: 0"
            )
        self._task, self._test, self._group = task, test, group
        self._count = int(task.get_config("num_fewshot"))
        self._scored = {self._fingerprint(doc) for doc in docs}
        self._questions = Questions(task, [doc for doc in docs if test.include(self._fingerprint(doc))], docs)
        self._drawn_by_lm_eval = task.sampler.sample
        self._context = task.fewshot_context
        self._asked: Mapping[str, Any] = {}
        self._check_enough()
        task.fewshot_context, task.sampler.sample = self._context_of, self._sample

    @cached_property
    def _pool(self) -> list[Mapping[str, Any]]:
        return list(self._task.sampler.fewshot_docs())

    @cached_property
    def _allowed(self) -> list[Mapping[str, Any]]:
        """The documents for examples that share no content with a test item."""
        return [doc for doc in self._pool if not self._is_test_item(doc)]

    @cached_property
    def _allowed_ids(self) -> set[int]:
        return {id(doc) for doc in self._allowed}

    def _check_enough(self) -> None:
        are_scored = any(self._fingerprint(doc) in self._scored for doc in self._allowed)
        needed = self._count + are_scored
        if len(self._allowed) < needed:
            raise UserError(
                f"num_fewshot: task {self._task.task_name!r} takes {self._count} examples from {self._source}, of "
                f"which {len(self._allowed)} of {len(self._pool)} documents are left without the test items, expected "
                f"{needed} or more; give the task a fewshot_split of its own, or set num_fewshot: 0"
            )

    @property
    def described(self) -> str:
        """Where the examples come from, for the user."""
        drawn = f"{self._count} example{'s' * (self._count > 1)} before each item, from {self._source}"
        left_out = len(self._pool) - len(self._allowed)
        if not left_out:
            return drawn
        return (
            f"{drawn}, without the {left_out} of its {len(self._pool)} documents that are test items; the command line "
            "of lm-eval draws from all of them, so that its number may differ"
        )

    @property
    def _source(self) -> str:
        """lm-eval's order: the split for examples, the task's samples, then what there is of the other splits."""
        examples, config = self._task.fewshot_cfg, self._task.config
        if examples.split is None and examples.samples is not None:
            return "the task's samples"
        split = examples.split or config.training_split or config.validation_split
        return f"the split {split!r}" if split else "the scored split (there is no fewshot_split)"

    def _fingerprint(self, doc: Mapping[str, Any]) -> str:
        return content_hash(doc[self._group] if self._group is not None and self._group in doc else doc)

    def _context_of(self, doc: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        self._asked = doc
        return self._context(doc, *args, **kwargs)

    def _sample(self, n: int, *args: Any, **kwargs: Any) -> list[Mapping[str, Any]]:
        """The examples that lm-eval draws, with others in place of those that are test items or the item itself."""
        drawn = list(self._drawn_by_lm_eval(n, *args, **kwargs))
        own = _Same(self._asked, self._fingerprint, self._questions)
        kept = [doc for doc in drawn if self._is_allowed(doc) and not own.includes(doc)]
        others = iter(self._others(n - len(kept), kept, own))
        return [doc if any(doc is each for each in kept) else next(others) for doc in drawn]

    def _is_allowed(self, doc: Mapping[str, Any]) -> bool:
        return id(doc) in self._allowed_ids or not self._is_test_item(doc)

    def _is_test_item(self, doc: Mapping[str, Any]) -> bool:
        return self._test.have(self._fingerprint(doc), content_text(doc)) or self._questions.have(doc)

    def _others(self, count: int, kept: Sequence[Mapping[str, Any]], own: _Same) -> list[Mapping[str, Any]]:
        """So many allowed documents beside those kept: the first ones for a sampler of the first ones, else random."""
        if not count:
            return []
        is_ordered = isinstance(self._task.sampler, FirstNSampler)
        random = Random(derive(self._task.task_name, "examples", own.fingerprint))
        for size in (min(count + len(kept) + SPARE, len(self._allowed)), len(self._allowed)):
            chosen = self._allowed[:size] if is_ordered else random.sample(self._allowed, size)
            found = [doc for doc in chosen if doc not in kept and not own.includes(doc)]
            if len(found) >= count:
                return found[:count]
        raise UserError(
            f"found {len(found) + len(kept)} documents that are neither test items nor the item itself, expected "
            f"{count + len(kept)}"
        )


class _Same:
    """Whether a document is the asked one, or a near-duplicate of it."""

    def __init__(self, asked: Mapping[str, Any], fingerprint: Any, questions: Questions) -> None:
        self._asked, self._fingerprint_of, self._questions = asked, fingerprint, questions
        self.fingerprint: str = fingerprint(asked)
        self._index = TextIndex({"asked": content_text(asked)})

    def includes(self, doc: Mapping[str, Any]) -> bool:
        if self._fingerprint_of(doc) == self.fingerprint or self._questions.are_equal(doc, self._asked):
            return True
        return bool(self._index.sharing(content_text(doc)))
