"""Recipes whose results are compared with mergekit's: edge cases of the YAML and of methods."""

from typing import Any


def source(name: str, layers: list[int], **parameters: Any) -> dict[str, Any]:
    own = {"parameters": parameters} if parameters else {}
    return {"model": f"inputs/{name}", "layer_range": layers, **own}


def model(name: str, **parameters: Any) -> dict[str, Any]:
    own = {"parameters": parameters} if parameters else {}
    return {"model": f"inputs/{name}", **own}


HALVES = [model("vocabA", weight=0.5), model("vocabB", weight=0.5)]
RECIPES: dict[str, dict[str, Any]] = {
    "filters and gradients": {
        "merge_method": "linear",
        "models": [
            model("L4-ft1", weight=[{"filter": "attn", "value": [0, 1]}, {"filter": "layers.2.", "value": 3}, 0.5]),
            model("L4-ft2", weight=[{"filter": "norm", "value": 2}, {"value": [1, 0.1, 0.7]}]),
        ],
    },
    "filters that leave the rest to the recipe": {
        "merge_method": "task_arithmetic",
        "base_model": "inputs/L4-base",
        "models": [model("L4-ft1", weight=[{"filter": "mlp", "value": 0.2}]), model("L4-ft2")],
        "parameters": {"weight": [{"filter": "self_attn", "value": [0.9, 0.1]}, {"value": 0.4}]},
    },
    "a base per slice": {
        "merge_method": "task_arithmetic",
        "base_model": "inputs/L4-base",
        "slices": [
            {"sources": [source("L4-base", [0, 2]), source("L4-ft1", [0, 2], weight=[0.1, 0.9])]},
            {
                "sources": [source("L4-ft2", [2, 4]), source("L4-ft1", [2, 4], weight=0.7)],
                "base_model": "inputs/L4-ft2",
            },
        ],
    },
    "lambda at every level": {
        "merge_method": "ties",
        "base_model": "inputs/L4-base",
        "parameters": {"lambda": 0.9, "density": 0.7, "normalize": False},
        "slices": [
            {
                "sources": [
                    source("L4-base", [0, 1]),
                    source("L4-ft1", [0, 1], weight=1, density=0.3),
                    source("L4-ft2", [0, 1], weight=0.5),
                ],
                "parameters": {"lambda": 0.5, "density": 0.5},
            },
            {
                "sources": [
                    source("L4-base", [1, 4]),
                    source("L4-ft1", [1, 4], weight=[{"filter": "layers.2.", "value": 0.3}, {"value": 1}]),
                    source("L4-ft2", [1, 4], weight=0.5),
                ],
                "parameters": {"lambda": [{"filter": "mlp", "value": [0.2, 0.8]}]},
            },
        ],
    },
    "layers that are repeated and interleaved": {
        "merge_method": "passthrough",
        "slices": [
            {"sources": [source("L4-ft1", [0, 2])]},
            {"sources": [source("L4-ft2", [1, 3], scale=[{"filter": "layers.1.mlp.down_proj", "value": 0.5}])]},
            {"sources": [source("L4-ft1", [1, 3])]},
            {"sources": [source("L4-ft2", [3, 4])]},
        ],
    },
    "layers of other depths": {
        "merge_method": "slerp",
        "base_model": "inputs/L4-ft1",
        "slices": [
            {
                "sources": [source("L4-ft1", [0, 3]), source("L4-ft2", [1, 4])],
                "parameters": {"t": [{"filter": "self_attn", "value": [0, 0.5, 1]}, {"value": [1, 0]}]},
            },
            {"sources": [source("L4-ft1", [2, 3]), source("L4-ft2", [0, 1])], "parameters": {"t": [0.2, 0.6]}},
        ],
        "parameters": {"t": 0.3},
    },
    "modules": {
        "merge_method": "linear",
        "modules": {
            "default": {
                "slices": [{"sources": [source("L4-ft1", [0, 3], weight=1), source("L4-ft2", [1, 4])]}],
                "parameters": {"weight": 0.5},
            }
        },
        "parameters": {"normalize": False},
    },
    "a module of models": {
        "merge_method": "linear",
        "modules": {"default": {"models": [model("L4-ft1", weight=[1, 0]), model("L4-ft2")]}},
        "parameters": {"weight": [0.2, 0.5]},
    },
    "one layer": {
        "merge_method": "slerp",
        "base_model": "inputs/vocabA",
        "models": [model("vocabA"), model("vocabC")],
        "parameters": {"t": [{"filter": "mlp", "value": [0.1, 0.5, 0.9]}, {"value": [0.3, 0.6]}]},
    },
    "a base that is not among the models": {
        "merge_method": "linear",
        "base_model": "inputs/base",
        "models": [model("ft1", weight=0.3), model("ft2")],
        "parameters": {"weight": 0.7},
    },
    "karcher with a base": {"merge_method": "karcher", "base_model": "inputs/base", "models": [model("ft1")]},
    "tied and untied": {
        "merge_method": "linear",
        "models": [model("tied-ft1", weight=0.5), model("untied-ft1", weight=0.5)],
        "base_model": "inputs/untied-ft1",
    },
    "union of tied models": {
        "merge_method": "linear",
        "base_model": "inputs/tiedA",
        "models": [model("tiedA", weight=0.4), model("tiedB", weight=0.6)],
        "tokenizer_source": "union",
    },
    "union with a base": {
        "merge_method": "task_arithmetic",
        "base_model": "inputs/vocabA",
        "models": [model("vocabB", weight=0.5), model("vocabC", weight=0.5)],
        "tokenizer": {"source": "union"},
    },
    "another model's tokenizer": {
        "merge_method": "linear",
        "base_model": "inputs/vocabA",
        "models": HALVES,
        "tokenizer_source": "inputs/vocabB",
    },
    "permuted": {
        "merge_method": "linear",
        "base_model": "inputs/vocabA",
        "models": [model("vocabA", weight=0.5), model("vocabP", weight=0.5)],
        "tokenizer_source": "inputs/vocabP",
    },
    "padded": {
        "merge_method": "linear",
        "base_model": "inputs/vocabA",
        "models": HALVES,
        "tokenizer": {"source": "union", "pad_to_multiple_of": 16},
    },
    "tokens": {
        "merge_method": "linear",
        "base_model": "inputs/vocabA",
        "models": HALVES,
        "tokenizer": {
            "source": "union",
            "tokens": {
                "<|x|>": {"source": "inputs/vocabB", "force": True},
                "<|y|>": {"source": {"kind": "model_token", "model": "inputs/vocabA", "token": "the"}},
                "<|z|>": {"source": {"kind": "model_token", "model": "inputs/vocabB", "token_id": 7}},
                "<|0|>": {"source": {"kind": "zero"}},
                "cat": {"source": "inputs/vocabA", "force": True},
            },
        },
    },
    "rows beyond the tokens": {
        "merge_method": "linear",
        "base_model": "inputs/L4-ft1",
        "models": [model("L4-ft1", weight=0.5), model("L4-ft2", weight=0.5)],
        "tokenizer": {"source": "base"},
    },
    "slices and a vocabulary": {
        "merge_method": "linear",
        "base_model": "inputs/vocabA",
        "slices": [
            {"sources": [source("vocabA", [0, 1], weight=0.5), source("vocabB", [0, 1], weight=0.5)]},
            {"sources": [source("vocabA", [0, 1], weight=0.1), source("vocabB", [0, 1], weight=0.9)]},
        ],
        "tokenizer": {"source": "union"},
    },
    "out_dtype": {
        "merge_method": "linear",
        "models": [model("ft1", weight=0.5), model("ft2", weight=0.25)],
        "dtype": "float32",
        "out_dtype": "bfloat16",
    },
    "wider than the inputs": {
        "merge_method": "slerp",
        "base_model": "inputs/bf16-ft1",
        "models": [model("bf16-ft1"), model("bf16-ft2")],
        "parameters": {"t": 0.4},
        "dtype": "float32",
    },
    "mixed dtypes": {
        "merge_method": "linear",
        "models": [model("bf16-ft1", weight=0.5), model("ft2", weight=0.25)],
        "base_model": "inputs/ft2",
    },
    "what old files carry": {
        "merge_method": "slerp",
        "base_model": "inputs/ft1",
        "models": [model("ft1"), model("ft2")],
        "parameters": {"t": "5e-1", "embed_slerp": True},
        "dtype": "torch.float32",
    },
    "whole ties": {
        "merge_method": "ties",
        "base_model": "inputs/L4-base",
        "models": [model("L4-base"), model("L4-ft1", weight=[1, 0.2], density=[0.2, 0.9]), model("L4-ft2", weight=-1)],
        "parameters": {"density": [{"filter": "self_attn", "value": 0.3}, {"value": 0.8}], "int8_mask": True},
    },
    "one filter, and a fallback at another level": {
        "merge_method": "linear",
        "models": [model("L4-ft1", weight={"filter": "mlp", "value": [0, 0.4, 1]}), model("L4-ft2", weight=0.25)],
        "parameters": {"weight": [{"filter": "layers.1.", "value": [0.9]}, {"filter": "*", "value": [0.3, 0.6]}]},
    },
    "negative weights that are not normalized": {
        "merge_method": "linear",
        "models": [model("ft1", weight=-0.5), model("ft2", weight=1.25), model("ft3", weight=[-0.1, 0.3])],
        "parameters": {"normalize": False},
    },
    "ties with negative weights": {
        "merge_method": "ties",
        "base_model": "inputs/base",
        "models": [
            model("ft1", weight=-0.5, density=0.6),
            model("ft2", weight=1.25),
            model("ft3", weight=[{"filter": "self_attn", "value": -1}, {"value": 0.7}]),
        ],
        "parameters": {"normalize": False, "density": 0.9, "rescale": True},
    },
    "task vectors over a sum of mixed signs": {
        "merge_method": "task_arithmetic",
        "base_model": "inputs/base",
        "models": [model("ft1", weight=-0.5), model("ft2", weight=1.25)],
        "parameters": {"normalize": True, "lambda": [0.5, 1.5]},
    },
    "slices with bases and sources of their own": {
        "merge_method": "ties",
        "base_model": "inputs/L4-base",
        "parameters": {"density": 0.5, "weight": 0.3, "lambda": 1.1},
        "slices": [
            {
                "sources": [
                    source("L4-ft1", [0, 2], weight=[{"filter": "o_proj", "value": [0.2, 1]}, {"value": 0.6}]),
                    source("L4-ft2", [1, 3], density=[0.2, 0.9]),
                    source("L4-base", [0, 2]),
                ],
                "parameters": {"weight": 0.5},
            },
            {
                "sources": [source("L4-ft1", [3, 4]), source("L4-base", [2, 3]), source("L4-ft2", [3, 4])],
                "base_model": "inputs/L4-ft1",
                "parameters": {"normalize": False, "density": 0.8},
            },
        ],
    },
    "della where nothing is random": {
        "merge_method": "della",
        "base_model": "inputs/base",
        "models": [model("ft1", weight=0.5, density=1), model("ft2", weight=0.8, density=1), model("ft3", density=0)],
        "parameters": {"weight": 1, "epsilon": 0.45, "lambda": 0.8},
    },
    "della_linear where nothing is random": {
        "merge_method": "della_linear",
        "base_model": "inputs/base",
        "models": [model("ft1", weight=0.5, density=1, epsilon=0), model("ft2", weight=-0.2, density=0)],
    },
    "dare_ties where nothing is dropped": {
        "merge_method": "dare_ties",
        "base_model": "inputs/base",
        "models": [model("ft1", weight=0.5), model("ft2", weight=0.8), model("ft3", weight=0.3)],
        "parameters": {"normalize": True},
    },
    "breadcrumbs without outliers, and with more than fit": {
        "merge_method": "breadcrumbs",
        "base_model": "inputs/base",
        "models": [model("ft1", weight=0.5, gamma=0), model("ft3", weight=0.8, gamma=0.9, density=0.6)],
        "parameters": {"density": 0.3},
    },
    "breadcrumbs_ties, rescaled": {
        "merge_method": "breadcrumbs_ties",
        "base_model": "inputs/base",
        "models": [model("ft1", weight=0.5), model("ft1x", weight=0.8, gamma=0.2)],
        "parameters": {"density": 0.7, "gamma": 0.1, "rescale": True, "normalize": True, "int8_mask": True},
    },
    "nuslerp by the last axis": {
        "merge_method": "nuslerp",
        "models": [model("ft1", weight=0.3), model("ft1x", weight=0.9)],
        "parameters": {"nuslerp_flatten": False},
    },
    "nuslerp by the first axis, of task vectors": {
        "merge_method": "nuslerp",
        "base_model": "inputs/base",
        "models": [model("ft1", weight=[1, 0.1]), model("ft1x", weight=0.4)],
        "parameters": {"nuslerp_flatten": False, "nuslerp_row_wise": True},
    },
    "nuslerp beyond its ends": {
        "merge_method": "nuslerp",
        "models": [model("ft1", weight=-0.5), model("ft1x", weight=1.5)],
    },
    "model_stock of filters": {
        "merge_method": "model_stock",
        "base_model": "inputs/base",
        "models": [model("ft1"), model("near1"), model("near2")],
        "parameters": {"filter_wise": True},
    },
    "model_stock of tensors": {
        "merge_method": "model_stock",
        "base_model": "inputs/base",
        "models": [model("near1"), model("base"), model("near2"), model("ft1")],
        "parameters": {"filter_wise": [{"filter": "mlp", "value": False}, {"value": False}]},
    },
    "passthrough scaled by filters": {
        "merge_method": "passthrough",
        "models": [
            model(
                "L4-ft1", scale=[{"filter": "o_proj", "value": [0, 1]}, {"filter": "norm", "value": 1.5}, {"value": 1}]
            )
        ],
        "base_model": "inputs/L4-ft1",
    },
    "multislerp of task vectors": {
        "merge_method": "multislerp",
        "base_model": "inputs/base",
        "models": [model("ft1", weight=0.5), model("ft1x", weight=0.8), model("near1", weight=0.1)],
        "parameters": {"normalize_weights": False, "eps": "1e-7"},
    },
    "nearswap over depth": {
        "merge_method": "nearswap",
        "base_model": "inputs/base",
        "models": [model("base"), model("ft1")],
        "parameters": {"t": [{"filter": "mlp", "value": [0.001, 0.02]}, {"value": "5e-3"}]},
    },
    "ramplus_tl": {
        "merge_method": "ramplus_tl",
        "base_model": "inputs/base",
        "models": [model("ft1"), model("ft2"), model("ft3")],
        "parameters": {"epsilon": 0.005, "r": 0.7, "alpha": 0.9},
    },
    "sce of a third": {
        "merge_method": "sce",
        "base_model": "inputs/base",
        "models": [model("ft1"), model("ft1x"), model("ft3")],
        "parameters": {"select_topk": 0.3, "int8_mask": True},
    },
    "karcher of three, with a base among them": {
        "merge_method": "karcher",
        "base_model": "inputs/ft1",
        "models": [model("ft1"), model("ft2"), model("near1")],
        "parameters": {"max_iter": 50, "tol": 1e-9},
    },
    "tokens into a model's vocabulary, padded": {
        "merge_method": "task_arithmetic",
        "base_model": "inputs/vocabA",
        "models": [model("vocabB", weight=0.5), model("vocabC", weight=0.7)],
        "tokenizer": {
            "source": "inputs/vocabC",
            "tokens": {
                "<|x|>": {"source": "inputs/vocabB"},
                "<|new|>": {"source": {"kind": "model_token", "model": "inputs/vocabC", "token": "the"}, "force": True},
                "<|0|>": {"source": {"kind": "zero"}, "force": True},
            },
            "pad_to_multiple_of": 8,
        },
    },
    "another model's tokenizer, with tokens": {
        "merge_method": "linear",
        "base_model": "inputs/vocabA",
        "models": HALVES,
        "tokenizer": {
            "source": "inputs/vocabB",
            "tokens": {"<|x|>": {"source": {"kind": "model_token", "model": "inputs/vocabA", "token_id": 5}}},
        },
    },
    "a union in slices with parameters": {
        "merge_method": "ties",
        "base_model": "inputs/vocabA",
        "slices": [
            {
                "sources": [source("vocabA", [0, 1]), source("vocabB", [0, 1], weight=0.5, density=0.5)],
                "parameters": {"weight": [{"filter": "embed_tokens", "value": 0.9}, {"value": 0.1}]},
            }
        ],
        "tokenizer_source": "union",
    },
}
