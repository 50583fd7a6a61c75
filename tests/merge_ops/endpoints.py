"""Parameters for which a method returns one of its inputs."""

from typing import Any

# Parameters for which a merge of equal models is the model itself. Methods that are not listed need none.
IDENTITY: dict[str, dict[str, Any]] = {
    "linear": {"normalize": True},
    "multislerp": {"normalize_weights": True},
    "passthrough": {"scale": 1.0},
}

# (description, parameters, index of the input that is returned; -1 is the base)
Endpoint = tuple[str, dict[str, Any], int]
SPARSE: dict[str, Any] = {"density": 1.0, "normalize": False, "lambda": 1.0}
ENDPOINTS: dict[str, list[Endpoint]] = {
    "linear": [
        ("all weight on one", {"weight": (0.0, 0.7, 0.0), "normalize": True}, 1),
        ("weight 1, not normalized", {"weight": (0.0, 0.0, 1.0), "normalize": False}, 2),
    ],
    "slerp": [("t = 0", {"t": 0.0}, -1), ("t = 1", {"t": 1.0}, 0)],
    "task_arithmetic": [
        ("weight 1", {"weight": (0.0, 1.0, 0.0), "lambda": 1.0, "normalize": False}, 1),
        ("one weight, normalized", {"weight": (0.4, 0.0, 0.0), "lambda": 1.0, "normalize": True}, 0),
        ("lambda 0", {"lambda": 0.0}, -1),
    ],
    "ties": [
        ("density 0", {"density": 0.0}, -1),
        ("lambda 0", {"lambda": 0.0}, -1),
        ("one model whole", {**SPARSE, "weight": (0.0, 1.0, 0.0)}, 1),
        ("one model normalized", {**SPARSE, "weight": (0.3, 0.0, 0.0), "normalize": True}, 0),
    ],
    "dare_linear": [
        ("density 0", {"density": 0.0}, -1),
        ("one model whole", {**SPARSE, "weight": (0.0, 1.0, 0.0)}, 1),
        ("lambda 0", {"lambda": 0.0}, -1),
    ],
    "dare_ties": [
        ("density 0", {"density": 0.0}, -1),
        ("one model whole", {**SPARSE, "weight": (0.0, 0.0, 1.0)}, 2),
        ("lambda 0", {"lambda": 0.0}, -1),
    ],
    "della_linear": [
        ("density 0", {"density": 0.0}, -1),
        ("one model whole", {**SPARSE, "weight": (0.0, 1.0, 0.0)}, 1),
    ],
    "della": [
        ("density 0", {"density": 0.0}, -1),
        ("one model whole", {**SPARSE, "weight": (0.0, 0.0, 1.0), "sign": "mass"}, 2),
    ],
    "breadcrumbs": [
        ("density 0", {"density": 0.0}, -1),
        ("one model whole", {**SPARSE, "weight": (0.0, 1.0, 0.0)}, 1),
    ],
    "breadcrumbs_ties": [
        ("density 0", {"density": 0.0}, -1),
        ("one model whole", {**SPARSE, "weight": (0.0, 0.0, 1.0), "sign": "mass"}, 2),
    ],
    "sce": [("nothing is selected", {"select_topk": 0.0}, -1)],
    "tsv": [("lambda 0", {"lambda": 0.0}, -1), ("no weight", {"weight": 0.0}, -1)],
    "iso_c": [("lambda 0", {"lambda": 0.0}, -1)],
    "fisher": [("all weight on one", {"weight": (0.0, 0.7, 0.0)}, 1)],
    "regmean": [],
    "arcee_fusion": [],
    "cosine_add": [("a large negative alpha", {"alpha": -100.0}, -1)],
    "add_difference": [("alpha 0", {"alpha": 0.0}, 0)],
    "nuslerp": [
        ("all weight on the first", {"weight": (0.3, 0.0)}, 0),
        ("all weight on the second, by rows", {"weight": (0.0, 0.3), "nuslerp_flatten": False}, 1),
    ],
    "multislerp": [("all weight on one", {"weight": (0.0, 0.7, 0.0), "normalize_weights": True}, 1)],
    "karcher": [],
    "model_stock": [],
    "consensus_ta": [
        ("lambda 0", {"lambda": 0.0}, -1),
        ("one model, all elements", {"weight": (0.0, 1.0, 0.0), "lambda": 1.0, "consensus": 0}, 1),
        ("nothing stands out", {"mask_scale": 1e9}, -1),
    ],
    "magmax": [("lambda 0", {"lambda": 0.0}, -1)],
    "ram": [("all changes are small", {"epsilon": 1e9}, -1)],
    "ramplus_tl": [("all changes are small", {"epsilon": 1e9}, -1)],
    "nearswap": [("t 0", {"t": 0.0}, -1), ("everything is near", {"t": 1e9}, 0)],
    "wise_ft": [("alpha 0", {"alpha": 0.0}, -1), ("alpha 1", {"alpha": 1.0}, 0)],
    "train_difference": [("alpha 0", {"alpha": 0.0}, 0)],
    "passthrough": [("scale 1", {"scale": 1.0}, 0)],
}
BIT_EXACT = ("linear", "slerp", "wise_ft", "passthrough")
