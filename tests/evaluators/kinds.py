"""lm-eval tasks of more kinds: metrics that are no means, partial evaluation, groups, a task's own code."""

import random
from pathlib import Path

from .conftest import GENERATE, WORDS, greedy, sentence, write_task

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


def write_kinds(folder: Path, saved: Path) -> None:
    """toy_yes, toy_wino, toy_say, toy_bleu, toy_parts, and the groups by_size and evenly."""
    draw = random.Random(5)
    asked = [{"question": sentence(draw, draw.randint(3, 9)), "gold": n % 2} for n in range(30)]
    said = greedy(saved, [f"Q: {doc['question']} A:" for doc in asked[:10]], tokens=8)
    answered = [
        {"question": doc["question"], "answer": text.strip()[:20]} for doc, text in zip(asked, said, strict=False)
    ]
    filled = [
        {"one": draw.choice(WORDS), "two": draw.choice(WORDS), "middle": sentence(draw, 3), "end": "sat", "gold": n % 2}
        for n in range(14)
    ]
    (folder / "parts.py").write_text(PARTS_CODE)
    write_task(folder, "toy_yes", asked, BINARY)
    write_task(folder, "toy_wino", filled, PARTIAL)
    write_task(folder, "toy_say", answered, GENERATE.replace("num_fewshot: 0\n", ""))
    write_task(folder, "toy_bleu", answered, TRANSLATE)
    write_task(folder, "toy_parts", answered, PARTS)
    (folder / "by_size.yaml").write_text(GROUP.format(name="by_size", by_size="true"))
    (folder / "evenly.yaml").write_text(GROUP.format(name="evenly", by_size="false"))
