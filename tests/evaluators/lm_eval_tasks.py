"""Tiny lm-eval tasks of all kinds, as files: their YAML, and documents from random sentences."""

import json
import random
from pathlib import Path
from typing import Any

from .helpers import WORDS, generated_texts, sentence

MULTIPLE_CHOICE = """output_type: multiple_choice
doc_to_text: "Q: {{question}} A:"
doc_to_choice: "{{choices}}"
doc_to_target: gold
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
"""
ODD_METRICS = """  - {metric: f1, aggregation: f1, higher_is_better: true}
  - {metric: likelihood, aggregation: mean, higher_is_better: true}
"""
WORD = """output_type: loglikelihood
doc_to_text: context
doc_to_target: word
num_fewshot: 0
target_delimiter: ""
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: perplexity, aggregation: perplexity, higher_is_better: false}
"""
TEXT = """output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: page
num_fewshot: 0
metric_list:
  - {metric: bits_per_byte, aggregation: bits_per_byte, higher_is_better: false}
  - {metric: word_perplexity, aggregation: weighted_perplexity, higher_is_better: false}
  - {metric: byte_perplexity, aggregation: weighted_perplexity, higher_is_better: false}
"""
GENERATE = """output_type: generate_until
doc_to_text: "Q: {{question}} A:"
doc_to_target: answer
num_fewshot: 0
generation_kwargs: {until: ["zzz"], max_gen_toks: 4, do_sample: false}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
filter_list:
  - {name: whole, filter: [{function: remove_whitespace}, {function: take_first}]}
  - {name: letters, filter: [{function: regex, regex_pattern: "([a-z]+)"}, {function: take_first}]}
"""
BINARY = """output_type: multiple_choice
doc_to_text: "Q: {{question}} A:"
doc_to_choice: ["cat", "dog"]
doc_to_target: gold
num_fewshot: 0
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_mutual_info, aggregation: mean, higher_is_better: true}
  - {metric: f1, aggregation: f1, higher_is_better: true}
  - {metric: mcc, aggregation: matthews_corrcoef, higher_is_better: true}
  - {metric: brier_score, aggregation: brier_score, higher_is_better: false}
"""
PARTIAL = """output_type: multiple_choice
doc_to_text: gold
doc_to_choice: "{{['the ' + one + ' ' + middle, 'the ' + two + ' ' + middle]}}"
doc_to_target: end
num_fewshot: 0
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
"""
TRANSLATE = """output_type: generate_until
doc_to_text: "Q: {{question}} A:"
doc_to_target: answer
num_fewshot: 0
generation_kwargs: {until: ["zzz"], max_gen_toks: 8, do_sample: false}
metric_list:
  - {metric: bleu, aggregation: bleu, higher_is_better: true}
  - {metric: chrf, aggregation: chrf, higher_is_better: true}
  - {metric: "chrf++", aggregation: "chrf++", higher_is_better: true}
  - {metric: ter, aggregation: ter, higher_is_better: false}
"""
PARTS = """output_type: generate_until
doc_to_text: "Q: {{question}} A:"
doc_to_target: answer
num_fewshot: 0
repeats: 2
generation_kwargs: {until: ["zzz"], max_gen_toks: 6, do_sample: false}
process_results: !function parts.judge
metric_list:
  - {metric: parts, aggregation: !function parts.share, higher_is_better: true}
  - {metric: length, aggregation: median, higher_is_better: false}
"""
LISTS = """output_type: generate_until
doc_to_text: "Q: {{question}} A:"
doc_to_target: answers
num_fewshot: 0
generation_kwargs: {until: ["zzz"], max_gen_toks: 8, do_sample: false}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
"""
OWN_CODE = """
def any_of(predictions, references, **_):
    return float(any(reference in predictions[0] for reference in references))
"""
SCRIPTS = MULTIPLE_CHOICE + "  - {metric: acc_bytes, aggregation: mean, higher_is_better: true}\n"
NESTED = """group: nested
task:
  - {task: toy_one, task_alias: first, num_fewshot: 0}
  - group: inner
    task: [toy_two, toy_three]
    aggregate_metric_list: [{metric: acc, weight_by_size: false}]
aggregate_metric_list: [{metric: acc, aggregation: mean, weight_by_size: true}]
"""
PARTS_CODE = """
def judge(doc, results):
    return {"parts": [w in results[0] for w in doc["question"].split()], "length": len(results[0])}

def share(lists):
    flat = [one for each in lists for one in each]
    return sum(flat) / len(flat)
"""
GROUP = """group: {name}
task: [toy_mc, toy_yes, toy_wino]
aggregate_metric_list:
  - {{metric: acc, weight_by_size: {by_size}}}
"""


def write_task(folder: Path, name: str, docs: list[dict[str, Any]], settings: str) -> None:
    data = folder / f"{name}.jsonl"
    data.write_text("".join(json.dumps(doc) + "\n" for doc in docs))
    (folder / f"{name}.yaml").write_text(
        f"task: {name}\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {data}}}}}\n"
        f"test_split: test\n{settings}"
    )


def choice_docs(rng: random.Random, count: int) -> list[dict[str, Any]]:
    """Questions of very different lengths. Two are longer than the tiny model's context."""
    return [
        {
            "question": sentence(rng, 150 if number < 2 else rng.randint(3, 25)),
            "choices": [sentence(rng, rng.randint(1, 4)) for _ in range(4)],
            "gold": rng.randrange(4),
            "source": f"file {number // 4}",
        }
        for number in range(count)
    ]


def write_tasks(folder: Path, model: Path) -> None:
    """Writes all tasks. Some correct answers are what the model in that folder generates.

    toy_mc, toy_shots, toy_odd: choices. toy_yes: two choices, with many metrics. toy_wino: partial evaluation.
    toy_word: one word. toy_text: texts. toy_gen, toy_say: generation. toy_bleu: metrics of a corpus. toy_parts: own
    code. toy_lists, toy_own: several correct answers. toy_scripts: choices in several scripts. Groups: toy_group
    without an aggregation, by_size and evenly with one, nested with a group that is written out inside.
    """
    rng = random.Random(2)
    write_task(folder, "toy_mc", choice_docs(rng, 40), MULTIPLE_CHOICE + "num_fewshot: 0\n")
    write_task(folder, "toy_shots", choice_docs(rng, 24), MULTIPLE_CHOICE)
    write_task(folder, "toy_odd", choice_docs(rng, 8), MULTIPLE_CHOICE + ODD_METRICS)
    words = [{"context": sentence(rng, 8), "word": f" {rng.choice(WORDS)}"} for _ in range(12)]
    for doc, word in zip(words, generated_texts(model, [doc["context"] for doc in words[:6]]), strict=False):
        doc["word"] = word
    write_task(folder, "toy_word", words, WORD)
    write_task(folder, "toy_text", [{"page": sentence(rng, size)} for size in (5, 300, 120)], TEXT)
    answers = generated_texts(model, [f"Q: {doc['context']} A:" for doc in words], tokens=4)
    questions = [
        {"question": doc["context"], "answer": answer.strip() if number % 2 else "no"}
        for number, (doc, answer) in enumerate(zip(words, answers, strict=True))
    ]
    write_task(folder, "toy_gen", questions, GENERATE)
    (folder / "toy_group.yaml").write_text("group: toy_group\ntask: [toy_mc, toy_gen]\n")
    _write_more_tasks(folder, model)


def _write_more_tasks(folder: Path, model: Path) -> None:
    rng = random.Random(5)
    questions = [{"question": sentence(rng, rng.randint(3, 9)), "gold": n % 2} for n in range(30)]
    texts = generated_texts(model, [f"Q: {doc['question']} A:" for doc in questions[:10]], tokens=8)
    answered = [
        {"question": doc["question"], "answer": text.strip()[:20]} for doc, text in zip(questions, texts, strict=False)
    ]
    filled = [
        {"one": rng.choice(WORDS), "two": rng.choice(WORDS), "middle": sentence(rng, 3), "end": "sat", "gold": n % 2}
        for n in range(14)
    ]
    (folder / "parts.py").write_text(PARTS_CODE)
    write_task(folder, "toy_yes", questions, BINARY)
    write_task(folder, "toy_wino", filled, PARTIAL)
    write_task(folder, "toy_say", answered, GENERATE.replace("num_fewshot: 0\n", ""))
    write_task(folder, "toy_bleu", answered, TRANSLATE)
    write_task(folder, "toy_parts", answered, PARTS)
    lists = [
        {"question": doc["question"], "answers": ["no", text] if number % 3 else ["yes", "no"]}
        for number, (doc, text) in enumerate(zip(questions, texts, strict=False))
    ]
    (folder / "own.py").write_text(OWN_CODE)
    write_task(folder, "toy_lists", lists, LISTS)
    write_task(folder, "toy_own", lists, LISTS.replace("metric: exact_match", "metric: !function own.any_of"))
    scripts = [
        {
            "question": sentence(rng, 5),
            "choices": [f"кот {WORDS[n % 9]}", "猫", "ein Hügel", sentence(rng, 3)],
            "gold": n % 4,
        }
        for n in range(24)
    ]
    write_task(folder, "toy_scripts", scripts, SCRIPTS + "num_fewshot: 0\n")
    for name, count in (("toy_one", 8), ("toy_two", 12), ("toy_three", 20)):
        write_task(folder, name, choice_docs(rng, count), MULTIPLE_CHOICE + "num_fewshot: 0\n")
    (folder / "nested.yaml").write_text(NESTED)
    (folder / "by_size.yaml").write_text(GROUP.format(name="by_size", by_size="true"))
    (folder / "evenly.yaml").write_text(GROUP.format(name="evenly", by_size="false"))
