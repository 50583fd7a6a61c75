"""The model card of a merged model: metadata for the Hugging Face Hub, and the recipe that rebuilds the model.

Nothing in a card depends on the time or the folder it is written in, and no path of this machine is in it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mergesearch.merge_ops.output.parents import Parent, Parents, without_path
from mergesearch.merge_ops.recipe.recipe import Recipe
from mergesearch.text import as_code, as_code_block, as_heading

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

TASKS = {
    "ForCausalLM": ("text-generation", "AutoModelForCausalLM"),
    "LMHeadModel": ("text-generation", "AutoModelForCausalLM"),
    "ForSequenceClassification": ("text-classification", "AutoModelForSequenceClassification"),
    "ForTokenClassification": ("token-classification", "AutoModelForTokenClassification"),
    "ForQuestionAnswering": ("question-answering", "AutoModelForQuestionAnswering"),
    "ForMaskedLM": ("fill-mask", "AutoModelForMaskedLM"),
    "ForImageClassification": ("image-classification", "AutoModelForImageClassification"),
}
"""The Hub's name of what a model does, and the class that loads it, by the end of the architecture's name."""
IN_MERGEKIT = {
    "arcee_fusion", "breadcrumbs", "breadcrumbs_ties", "dare_linear", "dare_ties", "della", "della_linear", "karcher",
    "linear", "model_stock", "multislerp", "nearswap", "nuslerp", "passthrough", "ram", "ramplus_tl", "sce", "slerp",
    "task_arithmetic", "ties",
}  # fmt: skip
"""The methods that mergekit has, too."""
OWN_NAME = "OWNER/NAME"
"""Stands in a card for the name of the repository."""


@dataclass(frozen=True)
class Evaluation:
    """What the run that found a model adds to its card, without a path of this machine.

    Attributes:
        title: the heading, and the name of the model in the metadata of the scores.
        sentence: the verdict.
        sections: Markdown, with headings of the second level.
        results: what it scored on items that the search did not use.
        datasets: the data sets on the Hub that it was searched with.
    """

    title: str
    sentence: str
    sections: str
    results: "Sequence[EvalResult]"
    datasets: Sequence[str]


@dataclass(frozen=True)
class Card:
    """The card of the result of a recipe.

    Attributes:
        recipe: the recipe of the result.
        parents: the models of it, and of all recipes of its file.
        config: the content of the result's ``config.json``; empty where it has none.
        is_sentence_model: whether it is loaded by sentence-transformers.
        recovery: the record of its recovery; empty where it was not recovered.
    """

    recipe: Recipe
    parents: Parents
    config: Mapping[str, Any]
    is_sentence_model: bool = False
    recovery: Mapping[str, Any] = field(default_factory=dict)

    def with_title(self, title: str) -> str:
        """The card of a model of which no scores are known."""
        return self._card(title, [f"# {as_heading(title)}", self._merged, self._models, self._recipe, self._use], {})

    def of(self, found: Evaluation) -> str:
        """The card of a model that a run found."""
        heading, sentence = f"# {as_heading(found.title)}", as_heading(found.sentence)
        parts = [heading, sentence, self._merged, self._models, found.sections.strip(), self._recipe, self._use]
        more = {"datasets": list(found.datasets) or None, "eval_results": list(found.results) or None}
        return self._card(found.title, parts, more)

    def _card(self, title: str, parts: Sequence[str], more: Mapping[str, Any]) -> str:
        # From its module: the package's ``ModelCard`` imports its client, which takes longer than a small merge.
        from huggingface_hub.repocard_data import ModelCardData

        metadata = ModelCardData(
            model_name=title if more.get("eval_results") else None,
            base_model=self.parents.hub_names or None,
            base_model_relation="merge" if self.parents.hub_names and self._is_merge else None,
            language=self.parents.languages or None,
            library_name=self._library,
            pipeline_tag=self.task,
            tags=self._tags,
            **dict[str, Any](more, **self.parents.license),
        )
        return f"---\n{metadata.to_yaml()}\n---\n\n" + "\n\n".join(part for part in parts if part) + "\n"

    @property
    def _library(self) -> str | None:
        if self.is_sentence_model:
            return "sentence-transformers"
        return "transformers" if self.config else None

    @property
    def task(self) -> str | None:
        """The Hub's name of what the model does; None where it is not known."""
        return self._task[0]

    @property
    def _task(self) -> tuple[str | None, str]:
        """The Hub's name of what the model does, and the class of transformers that loads it."""
        if self.is_sentence_model:
            return "sentence-similarity", "SentenceTransformer"
        architecture = str((self.config.get("architectures") or [""])[0])
        return next((task for end, task in TASKS.items() if architecture.endswith(end)), (None, "AutoModel"))

    @property
    def _tags(self) -> list[str]:
        methods = list(dict.fromkeys(without_path(recipe.merge_method) for recipe in self.parents.recipes))
        if not self._is_merge:
            return ["mergesearch"]
        known = ["mergekit-compatible"] if IN_MERGEKIT.issuperset(methods) else []
        return ["merge", "mergesearch", *known, *methods]

    @property
    def _is_merge(self) -> bool:
        return len(self.parents.recipes) > 1 or self.recipe.only_model is None

    @property
    def _merged(self) -> str:
        if not self._is_merge:
            return f"This is {as_code(self.parents.name(self.recipe.references[0]))} as it is: nothing is merged."
        base = self.recipe.base_model
        beside = f", with the base {as_code(self.parents.name(base))}" if base else ""
        method = as_code(without_path(self.recipe.merge_method))
        return f"Merged with mergesearch by {method} ({self.recipe.method.paper}){beside}.{self._recovered}"

    @property
    def _recovered(self) -> str:
        """How it was recovered, and what rebuilds it."""
        if not self.recovery:
            return ""
        how = self.recovery["settings"].get("how", "distill")
        kind = "distilled from its models" if how == "distill" else "corrected in its linear layers (surgery)"
        return (
            f" After the merge it was {kind} on texts without labels, with {self.recovery['tokens']:,} tokens: no "
            f"recipe gives these bytes from the weights alone. The texts' passages have the SHA-256 "
            f"`{self.recovery['data']}`, and the seed is {self.recovery['settings'].get('seed', 0)}."
        )

    @property
    def _models(self) -> str:
        rows = [f"| {_link(each)} | {self._origin(part, each)} | {_license(each)} |" for part, each in self._parts]
        note = self._license_note
        table = "\n".join(["| | model | licence |", "| --- | --- | --- |", *rows])
        return f"## Merged models\n\n{table}" + (f"\n\n{note}" if note else "")

    @property
    def _parts(self) -> list[tuple[str, Parent]]:
        return list(self.parents.parts.items())

    def _origin(self, part: str, parent: Parent) -> str:
        base = "the base, " if part == self.recipe.base_model else ""
        if parent.hub:
            return f"{base}on the Hub"
        made = f", made of {' and '.join(map(_hub_link, parent.made_of))}" if parent.made_of else ""
        return f"{base}a local model{made}"

    @property
    def _license_note(self) -> str:
        license_ = self.parents.license
        if not license_:
            return "The licence is not said here: that of a merged model is not known."
        if license_.get("license_name") == "licenses-of-the-merged-models":
            return "The licences of the merged models differ; all of them apply."
        return ""

    @property
    def _recipe(self) -> str:
        local = [each.name for _, each in self._parts if not each.hub]
        where = f", with the paths of the local models in place of {', '.join(map(as_code, local))}" if local else ""
        block = as_code_block(self.parents.recipe_text, "yaml").strip()
        what = "the model" if not self.recovery else "the model, on a machine of the same kind with the same texts,"
        return f"## Recipe\n\n{block}\n\n`mergesearch merge recipe.yml OUT` rebuilds {what} from this{where}."

    @property
    def _use(self) -> str:
        if not self._library:
            return ""
        loader = self._task[1]
        lines = [f"from sentence_transformers import {loader}", "", f'model = {loader}("{OWN_NAME}")']
        if not self.is_sentence_model:
            lines = [
                f"from transformers import {loader}, AutoTokenizer",
                "",
                f'model = {loader}.from_pretrained("{OWN_NAME}")',
                f'tokenizer = AutoTokenizer.from_pretrained("{OWN_NAME}")',
            ]
        return "## Use\n\n" + as_code_block("\n".join(lines), "python").strip()


def _link(parent: Parent) -> str:
    return _hub_link(parent.hub) if parent.hub else as_code(parent.name)


def _hub_link(name: str) -> str:
    return f"[{as_heading(name)}](https://huggingface.co/{name})"


def _license(parent: Parent) -> str:
    given = parent.license
    return as_heading(given.get("license_name") or given["license"]) if given else "not known"
