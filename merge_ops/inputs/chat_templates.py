"""Chat templates that recipes can name, in Jinja."""

from mergesearch.errors import UserError, nearest

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


def named_template(name: str) -> str:
    """Returns the template of that name. Raises UserError with the nearest name if there is none."""
    if name not in TEMPLATES:
        raise UserError(
            f"chat_template: {name!r} is neither a Jinja template nor the name of one{nearest(name, TEMPLATES)}"
        )
    return TEMPLATES[name]
