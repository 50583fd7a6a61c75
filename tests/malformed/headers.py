"""Safetensors files whose headers are wrong."""

import json
from typing import Any

Entry = dict[str, Any]
GOOD: dict[str, Entry] = {
    "a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]},
    "b": {"dtype": "F32", "shape": [2], "data_offsets": [16, 24]},
}


def file_of(header: object, data: int = 24, length: int | None = None) -> bytes:
    """A file with this header, text or JSON, and so many bytes of data. ``length`` is what it says of its header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + bytes(data)


def changed(key: str, value: Any) -> bytes:
    """A file whose first tensor has another value for a key."""
    return file_of({**GOOD, "a": {**GOOD["a"], key: value}})


def without(key: str) -> bytes:
    """A file whose first tensor lacks a key."""
    return file_of({**GOOD, "a": {k: v for k, v in GOOD["a"].items() if k != key}})


def named(name: str) -> bytes:
    """A file whose first tensor has another name."""
    return file_of({name: GOOD["a"], "b": GOOD["b"]})


def _text(a: str, b: str = '{"dtype":"F32","shape":[2],"data_offsets":[16,24]}') -> bytes:
    return f'{{"a":{a},"b":{b}}}'.encode()


HEADERS: dict[str, bytes] = {
    "good": file_of(GOOD),
    "empty file": b"",
    "short file": b"\x01\x02\x03",
    "length alone": (8).to_bytes(8, "little"),
    "no header": file_of(b"", 0),
    "empty header": file_of({}, 0),
    "empty header with data": file_of({}, 8),
    "header beyond the file": file_of(GOOD, length=10**6),
    "header of 10^18": file_of(GOOD, length=10**18),
    "header of 2^64 - 1": file_of(GOOD, length=2**64 - 1),
    "header that is too short": file_of(GOOD, length=20),
    "header above 100 MB": (100_000_001).to_bytes(8, "little") + b"{}" + b" " * 100_000_000,
    "list": file_of([1, 2], 0),
    "list of pairs": file_of([["a", GOOD["a"]], ["b", GOOD["b"]]]),
    "number": file_of(3, 0),
    "null": file_of(None, 0),
    "text": file_of("abc", 0),
    "garbage": file_of(b"\xff\xfe{}", 0),
    "binary": bytes(range(256)) * 4,
    "NaN": file_of(b"NaN", 0),
    "deep": file_of(b'{"a":' + b"[" * 50_000 + b"]" * 50_000 + b"}", 0),
    "deep shape": file_of(_text('{"dtype":"F32","shape":' + "[" * 3000 + "]" * 3000 + ',"data_offsets":[0,16]}')),
    "padded": file_of(json.dumps(GOOD).encode() + b"   \n"),
    "padded before": file_of(b"  " + json.dumps(GOOD).encode()),
    "metadata of text": file_of({"__metadata__": {"format": "pt"}, **GOOD}),
    "metadata of numbers": file_of({"__metadata__": {"format": 3}, **GOOD}),
    "metadata that is a list": file_of({"__metadata__": [1], **GOOD}),
    "metadata that is null": file_of({"__metadata__": None, **GOOD}),
    "metadata with null": file_of({"__metadata__": {"format": None}, **GOOD}),
    "metadata as a tensor": file_of({"__metadata__": GOOD["a"], "b": GOOD["b"]}),
    "other format": file_of({"__metadata__": {"format": "mlx"}, **GOOD}),
    "no dtype": without("dtype"),
    "no shape": without("shape"),
    "no offsets": without("data_offsets"),
    "entry that is null": file_of({**GOOD, "a": None}),
    "entry that is a list": file_of({**GOOD, "a": ["F32", [2, 2], [0, 16]]}),
    "entry that is a number": file_of({**GOOD, "a": 3}),
    "additional key": changed("extra", 1),
    "unknown dtype": changed("dtype", "F31"),
    "fp8": changed("dtype", "F8_E4M3"),
    "complex": changed("dtype", "C64"),
    "dtype that is null": changed("dtype", None),
    "dtype that is a list": changed("dtype", ["F32"]),
    "dtype that is a mapping": changed("dtype", {"F32": 1}),
    "dtype that is a number": changed("dtype", 32),
    "dtype in lower case": changed("dtype", "f32"),
    "empty dtype": changed("dtype", ""),
    "shape that is null": changed("shape", None),
    "shape that is a number": changed("shape", 4),
    "shape that is text": changed("shape", "22"),
    "shape that is a mapping": changed("shape", {"2": 2}),
    "shape of text": changed("shape", ["2", "2"]),
    "shape of floats": changed("shape", [2.0, 2.0]),
    "shape of fractions": changed("shape", [2.5, 1.6]),
    "shape of booleans": changed("shape", [True, 4]),
    "shape of null": changed("shape", [None, 2]),
    "shape of lists": changed("shape", [[2], [2]]),
    "shape of NaN": changed("shape", [float("nan")]),
    "negative shape": changed("shape", [-2, -2]),
    "shape with -1": changed("shape", [-1, 4]),
    "shape of 10^30": changed("shape", [10**30]),
    "shape of 10^30 and zero": changed("shape", [10**30, 0]),
    "shape whose product overflows": changed("shape", [2**32, 2**32, 2]),
    "shape of 2^63": changed("shape", [2**63]),
    "shape of 5000 digits": file_of(_text('{"dtype":"F32","shape":[' + "9" * 5000 + '],"data_offsets":[0,16]}')),
    "shape of 1e400": file_of(_text('{"dtype":"F32","shape":[1e400],"data_offsets":[0,16]}')),
    "shape of 1e1": file_of(_text('{"dtype":"F32","shape":[4e0],"data_offsets":[0,16]}')),
    "wrong shape": changed("shape", [3, 2]),
    "scalar": file_of({"a": {"dtype": "F32", "shape": [], "data_offsets": [0, 4]}}, 4),
    "no elements": file_of({"a": {"dtype": "F32", "shape": [0, 5], "data_offsets": [0, 0]}}, 0),
    "hundred dimensions": changed("shape", [4, *[1] * 100]),
    "offsets that are null": changed("data_offsets", None),
    "offsets that are a number": changed("data_offsets", 16),
    "offsets of text": changed("data_offsets", ["0", "16"]),
    "offsets of floats": changed("data_offsets", [0.0, 16.0]),
    "offsets of booleans": changed("data_offsets", [False, 16]),
    "one offset": changed("data_offsets", [16]),
    "three offsets": changed("data_offsets", [0, 8, 16]),
    "no offset": changed("data_offsets", []),
    "offsets that are reversed": changed("data_offsets", [16, 0]),
    "negative offsets": changed("data_offsets", [-16, 0]),
    "offsets of 10^30": changed("data_offsets", [0, 10**30]),
    "offsets beyond the file": changed("data_offsets", [1000, 1016]),
    "offsets of NaN": changed("data_offsets", [float("nan"), 16]),
    "offsets that are a mapping": changed("data_offsets", {"0": 16}),
    "offsets that overlap": file_of({**GOOD, "b": {**GOOD["b"], "data_offsets": [8, 16]}}),
    "offsets with a gap": file_of({**GOOD, "b": {**GOOD["b"], "data_offsets": [20, 28]}}, 28),
    "a gap at the start": file_of({"b": {**GOOD["b"]}}),
    "same data twice": file_of({**GOOD, "c": GOOD["b"]}),
    "data that is cut": file_of(GOOD, 20),
    "no data": file_of(GOOD, 0),
    "additional data": file_of(GOOD, 32),
    "name twice": file_of(
        b'{"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},'
        b'"a":{"dtype":"F32","shape":[2],"data_offsets":[16,24]}}'
    ),
    "name and its copy": file_of(
        b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},"a":{"dtype":"F32","shape":[2,2],'
        b'"data_offsets":[0,16]},"b":{"dtype":"F32","shape":[2],"data_offsets":[16,24]}}'
    ),
    "key twice": file_of(_text('{"dtype":"F16","dtype":"F32","shape":[2,2],"data_offsets":[0,16]}')),
    "metadata twice": file_of(b'{"__metadata__":{},"__metadata__":{},' + json.dumps(GOOD).encode()[1:]),
    "empty name": named(""),
    "name of NUL": named("\0"),
    "name with a line": named("a\n\x1b[31mb"),
    "name that is long": named("x" * 100_000),
    "name with a surrogate": file_of(json.dumps({"\ud800": GOOD["a"], "b": GOOD["b"]}).encode()),
    "name of markup": named("[bold]x[/nope]"),
    "name of a path": named("../../x"),
    "comment": file_of(json.dumps(GOOD).encode() + b" // x"),
    "trailing comma": file_of(json.dumps(GOOD).encode()[:-1] + b",}"),
    "single quotes": file_of(json.dumps(GOOD).replace('"', "'").encode()),
    "mark": file_of(b"\xef\xbb\xbf" + json.dumps(GOOD).encode()),
    "bad UTF-8 in a name": file_of(json.dumps(GOOD).encode().replace(b'"b"', b'"\xff"')),
    "pickle": b"\x80\x02}q\x00." + bytes(100),
    "zip": b"PK\x03\x04" + bytes(500),
    "page of HTML": b"<html><body>404</body></html>\n" * 5,
    "pointer of LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n",
}
"""Files by what they are. ``safetensors`` itself decides which of them are valid."""
