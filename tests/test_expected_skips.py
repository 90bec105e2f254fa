"""A skip fails in CI unless its reason is expected."""

import pytest

pytest_plugins = ["pytester"]

TESTS = """
import pytest

def test_one():
    pytest.skip({reason!r})

@pytest.mark.xfail
def test_two():
    assert False
"""


@pytest.mark.parametrize(
    ("ci", "reason", "outcome"),
    [
        ("true", "needs libtpu: pip install -r requirements-plan.txt", {"skipped": 1}),
        ("true", "mounting a small file system needs root: mount: \nno", {"skipped": 1}),
        ("true", "shellcheck is not installed", {"failed": 1}),
        ("true", "this needs libtpu: really", {"failed": 1}),
        ("", "shellcheck is not installed", {"skipped": 1}),
    ],
)
def test_an_unexpected_skip_fails_in_ci_alone(pytester, monkeypatch, ci, reason, outcome):
    monkeypatch.setenv("CI", ci)
    pytester.makepyfile(TESTS.format(reason=reason))
    pytester.runpytest_inprocess("-p", "expected_skips").assert_outcomes(xfailed=1, **outcome)


def test_a_skipped_file_counts_too(pytester, monkeypatch):
    monkeypatch.setenv("CI", "true")
    pytester.makepyfile("import pytest\n\npytest.importorskip('no_such_package')\n")
    pytester.runpytest_inprocess("-p", "expected_skips").assert_outcomes(errors=1)
