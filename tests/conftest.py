"""What all tests share."""

import os
from collections.abc import Generator, Iterator

import hypothesis
import pytest

from mergesearch.trust import trust_code

# Drawn inputs are the same in every run, and no test is timed.
hypothesis.settings.register_profile("tests", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("tests")


@pytest.fixture
def trusted() -> Iterator[None]:
    """Allows the code of tasks and recipes to run."""
    with trust_code():
        yield


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA GPU")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """On CI only tests that need a GPU may be skipped: what is skipped there is tested nowhere."""
    report = yield
    if report.skipped and "CI" in os.environ and not item.get_closest_marker("gpu"):
        report.outcome, report.longrepr = "failed", f"may not be skipped on CI: {report.longrepr}"
    return report
