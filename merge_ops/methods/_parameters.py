"""Parameters that several methods share, each declared once."""

from mergesearch.merge_ops.kernels.plans import SMALLEST_SUM
from mergesearch.merge_ops.methods._base import Parameter

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
