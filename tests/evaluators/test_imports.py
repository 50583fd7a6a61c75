"""A config is read, and --help printed, without waiting for the heavy libraries."""

import subprocess
import sys

HEAVY = ("torch", "lm_eval", "datasets", "transformers", "numpy", "mergesearch.merge_ops", "mergesearch.search")


def test_the_package_imports_nothing_heavy() -> None:
    code = (
        "import sys; from mergesearch.evaluators import EVALUATORS, Shared; "
        "[kind.Options for kind in EVALUATORS.values()]; "
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
