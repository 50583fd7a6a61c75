"""Values that no key expects, as YAML text, and YAML texts that are no config."""

import json
from typing import Any

HUGE = "9" * 5000
"""More digits than Python converts to an integer."""


def bomb(levels: int = 9) -> str:
    """A mapping whose aliases stand for ten to the power of ``levels`` entries."""
    lines = [f"a0: &a0 [{', '.join(['x'] * 10)}]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, levels)]
    return "\n".join(lines) + "\n"


def flow_bomb(levels: int = 9) -> str:
    """A list in one line, whose aliases stand for ten to the power of ``levels`` entries."""
    parts = ["&b0 [x, x, x, x, x, x, x, x, x, x]"]
    parts += [f"&b{i} [{', '.join([f'*b{i - 1}'] * 10)}]" for i in range(1, levels)]
    return f"[{', '.join(parts)}]"


VALUES = {
    "null": "null",
    "empty list": "[]",
    "empty mapping": "{}",
    "empty text": "''",
    "text": "nonsense",
    "zero": "0",
    "negative": "-1",
    "true": "true",
    "infinite": ".inf",
    "nan": ".nan",
    "1e400": "1e400",
    "10^30": "1000000000000000000000000000000",
    "huge integer": HUGE,
    "huge hexadecimal": "0x" + "f" * 5000,
    "date that is none": "2026-13-45",
    "date": "2026-01-01",
    "time that is none": "2026-01-01 25:61:00",
    "bad octal": "0o9",
    "underscores": "1_000",
    "sexagesimal": "1:60:99",
    "Python object": "!!python/object:os.system x",
    "binary": "!!binary aGk=",
    "bad binary": "!!binary '%%%'",
    "set": "!!set {a, b}",
    "ordered map": "!!omap [a: 1]",
    "tagged integer": "!!int x",
    "tagged float": "!!float x",
    "tagged timestamp": "!!timestamp x",
    "tagged boolean": "!!bool x",
    "unknown tag": "!own x",
    "cycle": "&c [*c]",
    "cyclic mapping": "&c {weight: *c}",
    "bomb": flow_bomb(),
    "unknown alias": "*nowhere",
    "surrogate": '"\\ud800"',
    "NUL": '"\\0"',
    "control characters": '"\\e[31m\\r\\n"',
    "markup": "'[bold]x[/nope]'",
    "long text": "x" * 300_000,
    "long path": "/".join(["x" * 300] * 3),
    "deep list": "[" * 60 + "]" * 60,
    "null as key": "{null: 1}",
    "number as key": "{1: 2}",
    "list as key": "{[1, 2]: 3}",
    "mapping as key": "{? {a: 1} : 2}",
    "date as key": "{2026-01-01: 2}",
    "key twice": "{weight: 1, weight: 2}",
    "merge of a number": "{<<: 3}",
    "merge of itself": "&m {<<: *m}",
    "hole": "{search: [0, 1]}",
    "hole with nothing": "{search: null}",
    "hole with itself": "{search: &s [*s, *s]}",
    "hole with names": "{search: [a, b]}",
    "hole with lists": "{search: [[1], [2]]}",
    "hole with NaN": "{search: [.nan, 1]}",
    "hole with infinity": "{search: [0, .inf]}",
    "hole with huge ends": "{search: [0, 1e308]}",
    "hole with huge integers": "{search: [0, 1000000000000000000000000000000]}",
    "tie to nothing": "{same_as: [1]}",
    "list of null": "[null]",
    "list of lists": "[[1, 2], [3]]",
    "filters": "[{filter: 1, value: 2}, 3]",
    "filter alone": "[{filter: x}]",
}
"""YAML for one value, by what it is."""

TEXTS: dict[str, bytes] = {
    "empty": b"",
    "blank": b"  \n\n",
    "comment": b"# nothing\n",
    "number": b"3\n",
    "list": b"- a\n- b\n",
    "text": b"hello\n",
    "three documents": b"a: 1\n---\nb: 2\n---\nc: 3\n",
    "empty documents": b"---\n---\n---\n",
    "bomb": bomb().encode(),
    "bomb in a list": flow_bomb().encode(),
    "cycle": b"&a [*a]\n",
    "cyclic mapping": b"&a {recipe: *a}\n",
    "cyclic key": b"&a {? *a : 1}\n",
    "deep brackets": b"[" * 10_000 + b"]" * 10_000,
    "deep braces": b"{a: " * 10_000 + b"}" * 10_000,
    "open brackets": b"[" * 10_000,
    "deep dashes": b"- " * 10_000 + b"x\n",
    "deep block": b"".join(b" " * i + b"a:\n" for i in range(1500)),
    "tabs": b"recipe:\n\tmerge_method: linear\n",
    "unclosed quote": b'recipe: "abc\n',
    "unclosed brace": b"recipe: {a: 1\n",
    "bad indentation": b"a: 1\n  b: 2\n c: 3\n",
    "two colons": b"a: b: c\n",
    "binary": bytes(range(256)) * 8,
    "NUL bytes": b"a: \0\n",
    "bad UTF-8": b"a: \xff\xfe\xfa\n",
    "UTF-16 without mark": "recipe: 1\n".encode("utf-16-le"),
    "UTF-32": "recipe: 1\n".encode("utf-32"),
    "UTF-16": "recipe: 1\n".encode("utf-16"),
    "mark alone": b"\xef\xbb\xbf",
    "control characters": b"a: \x1b[31m\x07\n",
    "percent": b"%YAML 9.9\n---\na: 1\n",
    "directive": b"%TAG ! tag:nowhere:\n---\n!x a\n",
    "anchor twice": b"a: &a 1\nb: &a 2\nc: *a\n",
    "alias first": b"a: *b\nb: &b 1\n",
    "long line": b"a: " + b"x" * 2_000_000 + b"\n",
    "many keys": b"".join(b"key%d: 1\n" % i for i in range(20_000)),
    "long key": b"x" * 5_000 + b": 1\n",
    "long explicit key": b"? " + b"x" * 50_000 + b"\n: 1\n",
    "huge integer": f"recipe: {HUGE}\n".encode(),
    "key that is a date": b"2026-13-45: 1\n",
    "pickle": b"\x80\x04\x95\x00.",
    "zip": b"PK\x03\x04" + bytes(200),
    "JSON": json.dumps({"recipe": [1, 2]}).encode(),
    "HTML": b"<html><body>404</body></html>\n",
    "conflict": b"<<<<<<< HEAD\na: 1\n=======\na: 2\n>>>>>>> x\n",
    "Python": b"import os\nos.system('x')\n",
    "template": b"{{ name }}: {% if x %}\n",
    "quoted key": b"'recipe' 'evaluate': 1\n",
    "null key": b"null: 1\n? [a, b]\n: 2\n1: 3\ntrue: 4\n2.5: 5\n",
    "merge key": b"<<: 3\n",
    "merge of a list": b"<<: [1, 2]\n",
    "carriage returns": b"recipe: 1\revaluate: 2\r",
    "large": b"# " + b"x" * 20_000_000 + b"\na: 1\n",
}
"""Bytes that are no config and no recipe, by what they are."""

JSON_VALUES: dict[str, Any] = {
    "null": None,
    "list": [1, 2],
    "mapping": {"a": 1},
    "number": 3,
    "negative": -1,
    "float": 2.5,
    "nan": float("nan"),
    "infinite": float("inf"),
    "10^30": 10**30,
    "true": True,
    "text": "nonsense",
    "empty text": "",
    "number as text": "30",
    "surrogate": "\ud800",
    "list of null": [None],
    "deep": json.loads("[" * 80 + "]" * 80),
}
"""Values that no key of a JSON file expects."""

JSON_TEXTS: dict[str, bytes] = {
    "empty": b"",
    "null": b"null",
    "list": b"[]",
    "list of pairs": b'[["a", 1]]',
    "list of texts": b'["ab"]',
    "number": b"3",
    "text": b'"abc"',
    "NaN": b"NaN",
    "deep": b"[" * 100_000,
    "deep mapping": b'{"a":' * 100_000,
    "huge integer": b'{"a": ' + HUGE.encode() + b"}",
    "cut": b'{"vocab_size": 3',
    "binary": bytes(range(256)),
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "mark": b'\xef\xbb\xbf{"a": 1}',
    "bad UTF-8": b'{"a": "\xff"}',
    "NUL": b'{"a": "\0"}',
    "comment": b'{"a": 1} // x',
    "two": b"{}{}",
}
"""Bytes that are no JSON object, by what they are."""
