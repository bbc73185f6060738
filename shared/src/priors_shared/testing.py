"""Pytest plugin: tests that need the reference data, marked `reference`, or a CUDA card, marked `gpu`.

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

A test marked `gpu` takes the fixture `cuda`; both are skipped where there is no card.

It is not registered by entry point: the plugin would be imported before jaxtyping's, which can
only check packages that are not imported yet.
"""

import math
import os
import subprocess
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, no_type_check
from unittest.mock import patch

import pytest

if TYPE_CHECKING:
    import torch


_FOLDERS = {"reference_data": "PRIORS_DATA", "reference_parity": "PRIORS_PARITY"}


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker, and refuse a folder that does not exist."""
    config.addinivalue_line(
        "markers", "reference: needs the folders that PRIORS_DATA and PRIORS_PARITY name"
    )
    config.addinivalue_line("markers", "gpu: needs a CUDA device")
    for variable in _FOLDERS.values():
        folder = os.environ.get(variable)
        if folder is not None and not Path(folder).is_dir():
            raise pytest.UsageError(f"{variable} names a folder that does not exist: {folder}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test that takes a reference folder, or the card, as a fixture."""
    for item in items:
        if not _FOLDERS.keys().isdisjoint(getattr(item, "fixturenames", ())):
            item.add_marker("reference")
        if "cuda" in getattr(item, "fixturenames", ()):
            item.add_marker("gpu")


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


@no_type_check  # see above
@pytest.fixture
def cuda() -> "Generator[torch.device, None, None]":
    """The CUDA device, which computes float32 exactly (no TF32); the test is skipped where there is none."""
    import torch

    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    backends = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [backend.allow_tf32 for backend in backends]
    for backend in backends:
        backend.allow_tf32 = False
    yield torch.device("cuda")
    for backend, allowed in zip(backends, before, strict=True):
        backend.allow_tf32 = allowed


def assert_same_step(
    module: "torch.nn.Module",
    cuda: "torch.device",
    loss_of: Callable[..., Any],
    *,
    loss_tolerance: float = 1e-4,
    gradient_tolerance: float = 1e-3,
) -> None:
    """A module's loss and gradient on the card are the CPU's, and are finite in mixed bfloat16.

    Args:
        module: on the CPU, float32; it is moved to the card.
        cuda: the card.
        loss_of: the loss of a module on a device; what it draws, it draws the same each time.
        loss_tolerance: largest relative difference of the loss.
        gradient_tolerance: largest norm of the gradients' difference, relative to the gradient's.
    """
    import torch

    def step(device: torch.device) -> tuple[float, torch.Tensor]:
        module.to(device).zero_grad()
        loss = loss_of(module, device)
        loss.backward()
        gradients = [p.grad.flatten() for p in module.parameters() if p.grad is not None]
        return float(loss.detach()), torch.cat(gradients).cpu()

    expected_loss, expected = step(torch.device("cpu"))
    loss, gradient = step(cuda)
    assert abs(loss - expected_loss) <= loss_tolerance * abs(expected_loss)
    assert float((gradient - expected).norm()) <= gradient_tolerance * float(expected.norm())
    with torch.autocast(cuda.type, torch.bfloat16):
        loss, gradient = step(cuda)
    assert math.isfinite(loss)
    assert bool(gradient.isfinite().all())


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


def refused(
    main: Callable[[Sequence[str]], object], capsys: pytest.CaptureFixture[str], *argv: str
) -> str:
    """The one line that a command leaves on stderr, after notes, when it ends with code 2."""
    with pytest.raises(SystemExit) as stopped:
        main(argv)
    assert stopped.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    assert lines[-1:] == errors, lines
    return errors[0]


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
