"""Pytest plugin: tests that need the reference data, marked `reference`.

The environment variables `PRIORS_DATA` and `PRIORS_PARITY` name two folders that are not part of
the repository: real datasets, and outputs of other implementations to compare with. A test that
needs one takes the fixture `reference_data` or `reference_parity`, or carries the marker
`reference` and lets the code under test read `PRIORS_DATA`.

Such a test is skipped where its folder is not named; with `PRIORS_REQUIRE_REFERENCE=1`, as in CI,
a skip is a failure. All other tests run with the two variables unset, so that none of them comes
to depend on data that most machines lack.

Use, in a `conftest.py`:

    def pytest_configure(config):
        config.pluginmanager.import_plugin("priors_shared.testing")

It is not registered by entry point: the plugin would be imported before jaxtyping's, which can
only check packages that are not imported yet.
"""

import os
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import no_type_check
from unittest.mock import patch

import pytest

_FOLDERS = {"reference_data": "PRIORS_DATA", "reference_parity": "PRIORS_PARITY"}


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker, and refuse a folder that does not exist."""
    config.addinivalue_line(
        "markers", "reference: needs the folders that PRIORS_DATA and PRIORS_PARITY name"
    )
    for variable in _FOLDERS.values():
        folder = os.environ.get(variable)
        if folder is not None and not Path(folder).is_dir():
            raise pytest.UsageError(f"{variable} names a folder that does not exist: {folder}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test that takes a reference folder as a fixture."""
    for item in items:
        if not _FOLDERS.keys().isdisjoint(getattr(item, "fixturenames", ())):
            item.add_marker("reference")


@no_type_check  # jaxtyping's check hides from pytest that this is a generator function
@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Hide the reference folders from a test that is not marked."""
    if item.get_closest_marker("reference") is not None:
        return (yield)
    hidden = {name: os.environ.pop(name, None) for name in _FOLDERS.values()}
    try:
        return (yield)
    finally:
        os.environ.update({name: folder for name, folder in hidden.items() if folder is not None})


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a marked test that names no folder and has no dataset folder to read."""
    takes_fixture = not _FOLDERS.keys().isdisjoint(getattr(item, "fixturenames", ()))
    if item.get_closest_marker("reference") is not None and not takes_fixture:
        _folder("PRIORS_DATA")


@no_type_check  # jaxtyping's check hides from pytest that this is a generator function
@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a reference test's skip into a failure where CI requires the reference folders."""
    report = yield
    required = os.environ.get("PRIORS_REQUIRE_REFERENCE", "") not in ("", "0")
    marked = item.get_closest_marker("reference") is not None
    if required and marked and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"a reference test must not be skipped here: {reason}"
    return report


@pytest.fixture(scope="session")
def reference_data() -> Path:
    """Folder of real datasets, from `PRIORS_DATA`; the test is skipped where it is unset."""
    return _folder("PRIORS_DATA")


@pytest.fixture(scope="session")
def reference_parity() -> Path:
    """Folder of other implementations' outputs, from `PRIORS_PARITY`; skips where it is unset."""
    return _folder("PRIORS_PARITY")


@contextmanager
def killed_at_checkpoint(number: int) -> Generator[None, None, None]:
    """What trains within by a `TrainingLoop` dies right after its checkpoint of this number; 0: before the first.

    Resumed, it must end as if it had never been killed.
    """
    from priors_shared import training  # late: jaxtyping checks only what is imported after it

    save, written = training.save_training_state, 0

    def dies(*args: object, **options: object) -> None:
        nonlocal written
        if number > 0:
            save(*args, **options)  # type: ignore[arg-type]
        written += 1
        if written >= number:
            raise KeyboardInterrupt

    with patch.object(training, "save_training_state", dies), pytest.raises(KeyboardInterrupt):
        yield


def run_on_two_processes(program: str, *arguments: str) -> str:
    """What a console script says when it trains on two processes of the CPU, started as its user starts it."""
    script = Path(sys.executable).with_name(program)
    where = ("--accelerator", "cpu", "--devices", "2", "--threads", "1")
    ran = subprocess.run(
        [sys.executable, str(script), *arguments, *where],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def _folder(variable: str) -> Path:
    folder = os.environ.get(variable)
    if folder is None:
        pytest.skip(f"needs reference data: set {variable} to its folder")
    return Path(folder)
