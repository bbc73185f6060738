"""Launching: clear errors for what is absent, nothing on the user's screen, models that train."""

import logging
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from priors_shared import devices
from priors_shared.devices import (
    choose_device,
    end_followers,
    hardware,
    launch,
    launch_one,
    peak_memory,
    set_threads,
    share,
)
from priors_shared.errors import UserError
from priors_shared.launching import LaunchConfig


@pytest.fixture
def cpu_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


@pytest.mark.usefixtures("cpu_only")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"accelerator": "cuda"}, "--accelerator cuda: none is visible here.*use cpu"),
        ({"accelerator": "gpu"}, "--accelerator gpu: none is visible here"),
        ({"accelerator": "mps"}, "--accelerator mps: none is visible here; use cpu"),
        ({"accelerator": "tpu"}, "--accelerator tpu: choose one of auto, cpu, cuda, mps"),
        ({"precision": "bf16"}, "--precision bf16: choose one of 32-true, bf16-mixed"),
        ({"precision": "16-mixed"}, "--precision 16-mixed: .*use bf16-mixed"),
        ({"devices": 0}, "devices 0: must be 1 or more"),
        ({"devices": "two"}, "devices two: give a number"),
    ],
)
def test_what_is_absent_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        launch(**options)


def test_more_devices_than_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UserError, match=r"devices 2: only 1 cuda"):
        launch("cuda", 2)


def test_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices.shutil, "which", lambda _: None)
    with pytest.raises(UserError, match=r"--compile: needs a C\+\+ compiler"):
        launch("cpu", compile=True)


def test_auto_is_one_device() -> None:
    fabric = launch("cpu")
    assert fabric.world_size == 1
    assert fabric.device == torch.device("cpu")


@pytest.mark.parametrize(
    ("precision", "weights", "outputs"),
    [
        ("32-true", torch.float32, torch.float32),
        ("bf16-mixed", torch.float32, torch.float32),  # Fabric hands back float32
        ("bf16-true", torch.bfloat16, torch.bfloat16),
        ("64-true", torch.float64, torch.float64),
    ],
)
def test_precision_reaches_the_model(
    precision: str, weights: torch.dtype, outputs: torch.dtype
) -> None:
    seen = []

    class Spy(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = super().forward(x)
            seen.append(y.dtype)
            return y

    fabric = launch("cpu", precision=precision)
    model = fabric.setup(Spy(3, 2))
    model(torch.ones(1, 3).to(weights))
    assert model.weight.dtype == weights
    assert seen == [torch.bfloat16 if "bf16" in precision else outputs]


@pytest.mark.parametrize("setup", ["setup", "setup_module"])
def test_compile_compiles_what_is_set_up(monkeypatch: pytest.MonkeyPatch, setup: str) -> None:
    compiled = []

    def fake_compile(module: nn.Module, **_: object) -> nn.Module:
        compiled.append(module)
        return module

    monkeypatch.setattr(devices, "_require_compiler", lambda _: None)
    monkeypatch.setattr(torch, "compile", fake_compile)
    model = nn.Linear(1, 1)
    prepare: Callable[[nn.Module], Any] = getattr(launch("cpu", compile=True), setup)
    prepare(model)
    assert compiled == [model]
    getattr(launch("cpu"), setup)(model)
    assert compiled == [model]


def test_launch_is_silent(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("lightning_fabric", "lightning.fabric", "lightning_utilities"):
        caplog.set_level(logging.INFO, logger=name)
    model = nn.Linear(1, 1)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        fabric = launch("cpu", precision="bf16-mixed")  # of which Lightning would tell
        fabric.setup(model, torch.optim.SGD(model.parameters(), lr=0.1))
    assert ([*caplog.messages], [str(w.message) for w in warned]) == ([], [])
    assert capfd.readouterr() == ("", "")


def test_threads_are_set() -> None:
    before = torch.get_num_threads()
    try:
        set_threads(3)
        assert torch.get_num_threads() == 3
        set_threads(None)
        assert torch.get_num_threads() == 3
        with pytest.raises(UserError, match="--threads 0"):
            set_threads(0)
    finally:
        torch.set_num_threads(before)


def test_peak_memory_counts_bytes() -> None:
    before = peak_memory()
    assert 20e6 < before < 1e12  # an interpreter with torch, in bytes
    blob = torch.ones(40_000_000)  # 160 MB
    assert peak_memory() >= before
    assert peak_memory() > blob.nbytes


def test_hardware_is_named() -> None:
    found = hardware()
    assert found["cpu"]
    assert found["cores"] >= 1
    assert found["torch"] == torch.__version__
    assert isinstance(found["accelerators"], list)


class Process:
    """A fabric as one of several processes sees it."""

    def __init__(self, rank: int, of: int) -> None:
        self.global_rank, self.world_size, self.barriers = rank, of, 0

    def barrier(self) -> None:
        self.barriers += 1


def test_a_batch_is_shared_out_whole() -> None:
    parts = [share(range(7), Process(rank, 3)) for rank in range(3)]
    assert sorted(i for part in parts for i in part) == list(range(7))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert list(share([5, 6], Process(2, 3))) == [5, 6]


def test_all_processes_but_the_first_end_after_training(monkeypatch: pytest.MonkeyPatch) -> None:
    alone, first, other = Process(0, 1), Process(0, 2), Process(1, 2)
    end_followers(alone)
    end_followers(first)
    assert (alone.barriers, first.barriers) == (0, 1)
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(SystemExit) as stop:
        end_followers(other)
    assert (stop.value.code, other.barriers) == (0, 1)


def test_what_runs_on_one_device_says_so() -> None:
    for where, message in (
        (LaunchConfig(devices=2), "^devices 2: a dance runs on one device"),
        (LaunchConfig(compile=True), "^compile: a dance is not compiled"),
    ):
        with pytest.raises(UserError, match=message):
            launch_one(where, "a dance")


@pytest.mark.usefixtures("cpu_only")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("foo", "device foo: choose one of auto, cpu, cuda, mps"),
        ("cuda", "device cuda: none is visible here.*use cpu"),
        ("cuda:1", "device cuda:1: none is visible here"),
        ("cpu:0", "device cpu:0: only cuda is numbered"),
        ("", "device : choose one of"),
    ],
)
def test_a_device_that_is_not_there_is_named(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        choose_device(name)


@pytest.mark.usefixtures("cpu_only")
def test_devices_are_chosen_by_name() -> None:
    assert choose_device("cpu") == choose_device("auto") == torch.device("cpu")
    assert choose_device(torch.device("cpu")) == torch.device("cpu")
