"""Chat templates in Jinja: those of models, and those that recipes can name."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from mergesearch.copies import here
from mergesearch.errors import UserError, nearest
from mergesearch.merge_ops.checkpoint.checkpoint import Checkpoint
from mergesearch.reading import JSON_BYTES, read_json_object, read_text

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ALPACA = (
    "{% for message in messages %}{% if message['role'] == 'system' %}{{ message['content'] }}\n\n"
    "{% elif message['role'] == 'user' %}### Instruction:\n{{ message['content'] }}\n\n"
    "{% elif message['role'] == 'assistant' %}### Response:\n{{ message['content'] }}{{ eos_token }}\n\n"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}### Response:\n{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n"
    "{{ message['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}[INST] {{ message['content'] }} "
    "[/INST]{% elif message['role'] == 'assistant' %} {{ message['content'] }}{{ eos_token }}{% else %}"
    "[INST] {{ message['content'] }} [/INST]{% endif %}{% endfor %}"
)
EXAONE = (
    "{% for message in messages %}[|{{ message['role'] }}|]{{ message['content'] }}"
    "{% if message['role'] != 'user' %}[|endofturn|]{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}[|assistant|]{% endif %}"
)
TEMPLATES = {"alpaca": ALPACA, "chatml": CHATML, "exaone": EXAONE, "llama3": LLAMA3, "mistral": MISTRAL}


def chat_template(name: str, folders: Mapping[str, Path]) -> str | None:
    """Returns the chat template that a recipe asks for, or None for ``auto`` if no model has one.

    Args:
        name: a Jinja template, the name of one, a model that has one, or ``auto`` for the one that most models have.
        folders: the folders of the recipe's models by reference. Other models are given by their folders.

    Raises:
        UserError: the name is none of these, or the model has no template.
    """
    if name == "auto":
        templates = [template.strip() for template in map(stored_template, folders.values()) if template]
        return Counter(templates).most_common(1)[0][0] if templates else None
    if "{" in name or name in TEMPLATES:
        return TEMPLATES.get(name, name)
    folder = folders.get(name, Path(here(name)))
    if not folder.is_dir():
        raise UserError(
            f"chat_template: {name!r} is neither a Jinja template, nor the name of one, nor a model"
            f"{nearest(name, {*TEMPLATES, *folders})}"
        )
    template = stored_template(folder)
    if template is None:
        owners = [reference for reference, each in folders.items() if stored_template(each)]
        raise UserError(f"chat_template: {name} has no chat template{nearest(name, owners)}")
    return template


def template_warnings(checkpoints: Sequence[Checkpoint]) -> list[str]:
    """Returns a warning for each chat template that is not the first checkpoint's, which is the result's."""
    template, *others = checkpoints
    own, told, warnings = _shown(template), set[str](), []
    for other in others:
        theirs = _shown(other)
        if theirs and theirs != own and theirs not in told:
            told.add(theirs)
            what = f"another chat template than {template.reference}" if own else "a chat template"
            lack = f"has that of {template.reference}" if own else f"has none, as {template.reference} has none"
            warnings.append(
                f"{other.reference}: has {what}; the result {lack}; `chat_template: {other.reference}` in the recipe "
                "takes it"
            )
    return warnings


def _shown(checkpoint: Checkpoint) -> str:
    """Returns the template without the line breaks around it, or "" if there is none."""
    folder = checkpoint.tokenizer_folder
    return (stored_template(folder) or "").strip() if folder else ""


def stored_template(folder: Path) -> str | None:
    """Returns the chat template in a model's folder, or the one named "default" if there are several.

    Processors of old models have it in ``chat_template.json``.
    """
    file, config = folder / "chat_template.jinja", folder / "tokenizer_config.json"
    if file.exists():
        return read_text(file, JSON_BYTES)
    places = [config, folder / "chat_template.json", folder / "processor_config.json"]
    found = (read_json_object(place).get("chat_template") for place in places if place.exists())
    template = next(filter(None, found), None)
    if isinstance(template, list):
        named = [entry for entry in template if isinstance(entry, dict)]
        template = next((entry.get("template") for entry in named if entry.get("name") == "default"), None)
    return template if isinstance(template, str) else None


def write_chat_template(folder: Path, template: str) -> None:
    """Replaces the chat template in a tokenizer's folder."""
    for file in [*folder.glob("chat_template.*"), *folder.glob("additional_chat_templates/*")]:
        file.unlink()
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    config = folder / "tokenizer_config.json"
    if config.exists():
        content = read_json_object(config)
        if content.pop("chat_template", None) is not None:
            config.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
