"""Parameters that several methods share, each declared once."""

from mergesearch.merge_ops.kernels.plans import SMALLEST_SUM
from mergesearch.merge_ops.methods._base import BASE, Copied, Parameter, ParameterValues

WEIGHT = Parameter("weight", "the model's share", per_model=True, search=(0.0, 1.5))
LAMBDA = Parameter("lambda", "a factor on the sum of task vectors", default=1.0, search=(0.3, 1.5))
INT8_MASK = Parameter("int8_mask", "accepted for mergekit's recipes; changes nothing", kind="switch", default=False)
CALIBRATION = Parameter(
    "calibration", "a text file that the models run on; its text should be like that of the final use", kind="file"
)
CALIBRATION_TOKENS = Parameter(
    "calibration_tokens", "how many tokens of the text are read", kind="integer", default=8192, low=2, high=2**40
)


def normalize(default: bool) -> Parameter:
    """Declares ``normalize`` with the method's own default."""
    return Parameter(
        "normalize", "divide by the sum of the weights", kind="switch", default=default, search=(False, True)
    )


def normalized(weights: tuple[float, ...], enabled: bool = True) -> tuple[float, ...]:
    """Returns the weights divided by their sum, or the weights themselves if the sum is zero or not ``enabled``."""
    total = sum(weights)
    if not enabled or abs(total) <= SMALLEST_SUM:
        return weights
    return tuple(weight / total for weight in weights)


def sole_model(weights: tuple[float, ...], divide: bool) -> int | None:
    """Returns the index of the only model with a weight, if its share of the sum is one; otherwise None."""
    others = [index for index, weight in enumerate(weights) if weight]
    if len(others) != 1:
        return None
    weight = weights[others[0]]
    return others[0] if weight == 1 or (divide and abs(weight) > SMALLEST_SUM) else None


def base_without(*names: str) -> Copied:
    """Returns a ``Method.copied``: the base where one of these parameters is zero, for every model if each has one."""

    def copied(values: ParameterValues, _: int, __: bool) -> int | None:
        found = [values.per_model[name] if name in values.per_model else (values.shared[name],) for name in names]
        return BASE if any(not any(each) for each in found) else None

    return copied


def ends(name: str, at_zero: int, at_one: int | None = None) -> Copied:
    """Returns a ``Method.copied`` for a parameter that goes from one input at 0 to another one at 1."""

    def copied(values: ParameterValues, _: int, __: bool) -> int | None:
        return {0.0: at_zero, 1.0: at_one}.get(values.number(name))

    return copied
