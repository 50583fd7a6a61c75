"""Means on spheres, with whole vectors and no Gram matrix."""

from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from .case import Case


def slerp(case: Case) -> Tensor:
    """Shoemake's formula with the angle from an arctangent; a straight line where the angle says nothing."""
    t, v0, v1 = case.shared["t"], case.base.double().numpy(), case.models[0].double().numpy()
    straight = torch.from_numpy(np.asarray((1 - t) * v0 + t * v1))
    angle = angle_between(v0.ravel(), v1.ravel(), 1e-8)
    if abs(np.cos(angle)) > 0.9995:
        return straight
    return torch.from_numpy(np.asarray((np.sin((1 - t) * angle) * v0 + np.sin(t * angle) * v1) / np.sin(angle)))


def nuslerp(case: Case) -> Tensor:
    """Vector by vector, with the angle from an arctangent."""
    x0, x1 = ((model.double() - case.origin).numpy() for model in case.models)
    w0, w1 = case.each["weight"]
    t = 0.5 if abs(w0 + w1) < 1e-6 else w1 / (w0 + w1)
    if case.shared["nuslerp_flatten"] or x0.ndim < 2:
        result = arc(x0.ravel(), x1.ravel(), t).reshape(x0.shape)
    else:
        axis = 0 if case.shared["nuslerp_row_wise"] else -1
        result = np.empty_like(x0)
        lines = [np.moveaxis(a, axis, -1) for a in (x0, x1, result)]
        for place in np.ndindex(*lines[0].shape[:-1]):
            lines[2][place] = arc(lines[0][place], lines[1][place], t)
    return case.origin + torch.from_numpy(np.asarray(result))


def arc(v0: np.ndarray, v1: np.ndarray, t: float) -> np.ndarray:
    angle = angle_between(v0, v1, 1e-7)
    if np.sin(angle) < 1e-4:
        return (1 - t) * v0 + t * v1
    return (np.sin((1 - t) * angle) * v0 + np.sin(t * angle) * v1) / np.sin(angle)


def angle_between(v0: np.ndarray, v1: np.ndarray, smallest: float) -> float:
    """A right angle where a vector is zero."""
    n0, n1 = np.linalg.norm(v0), np.linalg.norm(v1)
    if min(n0, n1) <= smallest:
        return float(np.pi / 2)
    return float(2 * np.arctan2(np.linalg.norm(v0 / n0 - v1 / n1), np.linalg.norm(v0 / n0 + v1 / n1)))


def multislerp(case: Case) -> Tensor:
    """With the walk through the tangent space, as the method is told."""
    if len(case.models) == 1:
        return case.models[0].double()
    vectors = torch.stack([(model.double() - case.origin).flatten() for model in case.models])
    w, eps = torch.tensor(case.each["weight"], dtype=torch.float64), case.shared["eps"]
    if case.shared["normalize_weights"] and abs(float(w.sum())) > 1e-8:
        w = w / w.sum()
    units = vectors / (vectors.norm(dim=1, keepdim=True) + eps)
    mean = w @ units
    if mean.norm() < eps:
        return case.origin + (w @ vectors).view(case.base.shape)
    mean = mean / mean.norm()
    tangent = w @ (units - (units @ mean)[:, None] * mean)
    size = tangent.norm() + 1e-300
    point = mean * torch.cos(size) + tangent * torch.sin(size) / size
    return case.origin + ((w @ vectors.norm(dim=1)) * point).view(case.base.shape)


def karcher(case: Case) -> Tensor:
    vectors = torch.stack([model.double().flatten() for model in case.models])
    norms, tol = vectors.norm(dim=1), case.shared["tol"]
    units = vectors[norms > tol] / norms[norms > tol, None]
    if len(units) == 0:
        return torch.zeros_like(case.base, dtype=torch.float64)
    mean = units.mean(0)
    if mean.norm() < tol:
        return vectors.mean(0).view(case.base.shape)
    mean = mean / mean.norm()
    for _ in range(case.shared["max_iter"]):
        step = torch.stack([logarithm(mean, unit) for unit in units]).mean(0)
        if step.norm() < tol:
            break
        mean = torch.cos(step.norm()) * mean + torch.sin(step.norm()) * step / step.norm()
        mean = mean / mean.norm()
    result: Tensor = norms.mean() * mean
    return result.view(case.base.shape)


def logarithm(point: Tensor, towards: Tensor) -> Tensor:
    """The tangent at ``point`` that leads to ``towards``, as long as the angle between them."""
    angle = 2 * torch.atan2((point - towards).norm(), (point + towards).norm())
    across = towards - torch.dot(point, towards) * point
    return angle * across / across.norm() if across.norm() > 1e-9 else torch.zeros_like(point)


def model_stock(case: Case) -> Tensor:
    """Filter by filter; t is kept within [0, 1]."""
    wise = case.shared["filter_wise"] and case.base.dim() > 1
    shape = (-1, case.base.shape[-1]) if wise else (1, case.base.numel())
    if case.base.numel() == 0:
        return case.base.double()
    rows = [delta.reshape(shape) for delta in case.task_vectors]
    result = torch.stack([stocked([row[i] for row in rows]) for i in range(rows[0].shape[0])])
    return case.base.double() + result.view(case.base.shape)


def stocked(deltas: list[Tensor]) -> Tensor:
    cosines = []
    for a, b in combinations(deltas, 2):
        size = (a.norm() * b.norm()).item()
        cosines.append((a @ b).item() / size if size > 1e-14 else 0.0)
    n, cosine = len(deltas), min(1.0, max(0.0, float(np.mean(cosines))))
    t = n * cosine / (1 + (n - 1) * cosine)
    return t * torch.stack(deltas).mean(0)
