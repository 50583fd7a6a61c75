"""Sums of models and of task vectors."""

from torch import Tensor

from .case import Case, divisor, weighted_sum


def linear(case: Case) -> Tensor:
    return weighted_sum(case.models, case.each["weight"]) / divisor(case)


def task_arithmetic(case: Case) -> Tensor:
    change: Tensor = weighted_sum(case.task_vectors, case.each["weight"]) / divisor(case)
    factor: float = case.shared["lambda"]
    return case.base.double() + factor * change


def add_difference(case: Case) -> Tensor:
    a, b = (model.double() for model in case.models)
    alpha: float = case.shared["alpha"]
    return a + alpha * (b - case.base.double())


def wise_ft(case: Case) -> Tensor:
    alpha: float = case.shared["alpha"]
    return (1 - alpha) * case.base.double() + alpha * case.models[0].double()


def passthrough(case: Case) -> Tensor:
    scale: float = case.each["scale"][0]
    return scale * case.models[0].double()
