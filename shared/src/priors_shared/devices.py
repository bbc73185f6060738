"""Where a training runs: accelerator, precision, threads, compilation; and what it cost."""

import importlib.util
import logging
import os
import platform
import shutil
import sys
import warnings
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from priors_shared.errors import UserError
from priors_shared.launching import LaunchConfig, follows

if TYPE_CHECKING:
    from lightning_fabric import Fabric
else:
    Fabric = Any  # imported in `launch`: it loads torch's compiler, as slow as torch itself

Item = TypeVar("Item")
ACCELERATORS = ("auto", "cpu", "cuda", "mps")
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed", "bf16-true", "64-true")


def launch(
    accelerator: str = "auto",
    devices: int | str = "auto",
    precision: str = "32-true",
    *,
    compile: bool = False,
    unused_parameters: bool = False,
) -> Fabric:
    """Return a launched Lightning Fabric; its `setup` moves, wraps and compiles models.

    Args:
        accelerator: one of `ACCELERATORS`; "auto" takes CUDA, else MPS, else the CPU.
        devices: how many. "auto" is one: with more, this command runs once for each, and each process
            must take its own share of the data, end with `end_followers`, and leave files to the first.
        precision: one of `PRECISIONS`; mixed keeps float32 weights.
        compile: `torch.compile` every module that is given to `setup`.
        unused_parameters: on several devices, allow parameters that the loss does not depend on.

    Raises:
        UserError: the accelerator, the number of devices, the precision or the compiler is not
            to be had here.
    """
    accelerator = _present_accelerator(accelerator)
    count = _present_devices(accelerator, devices)
    if precision not in PRECISIONS:
        raise UserError(f"--precision {precision}: choose one of {', '.join(PRECISIONS)}")
    if precision == "16-mixed" and accelerator == "cpu":
        raise UserError("--precision 16-mixed: CPUs have no float16 training; use bf16-mixed")
    if precision == "64-true" and accelerator == "mps":
        raise UserError("--precision 64-true: MPS has no float64; use 32-true or --accelerator cpu")
    if compile:
        _require_compiler(accelerator)

    fabric_class = _fabric_class()
    _quieten()
    several = "ddp_find_unused_parameters_true" if unused_parameters else "ddp"
    strategy = several if count > 1 else "auto"
    fabric = fabric_class(
        accelerator=accelerator, devices=count, precision=precision, strategy=strategy
    )
    fabric.compiles = compile
    fabric.launch()
    return fabric


def choose_device(name: str | torch.device) -> torch.device:
    """The device of that name: cpu, cuda, cuda:1, mps, or auto, which takes CUDA, else MPS, else the CPU.

    Raises:
        UserError: no such kind of device, or none of it here.
    """
    kind, _, index = str(name).partition(":")
    kind = _present_accelerator(kind, "device", str(name))
    if index and not (index.isdecimal() and kind == "cuda"):
        raise UserError(f"device {name}: only cuda is numbered, as in cuda:0")
    if index and int(index) >= torch.cuda.device_count():
        raise UserError(f"device {name}: only {torch.cuda.device_count()} cuda device(s) here")
    return torch.device(f"{kind}:{index}" if index else kind)


def share(batch: Sequence[Item], fabric: Fabric) -> Sequence[Item]:
    """This process's part of a batch; of a batch too small for all processes, the whole."""
    mine = batch[fabric.global_rank :: fabric.world_size]
    return mine if len(batch) >= fabric.world_size else batch


def launch_one(where: LaunchConfig, what: str) -> Fabric:
    """Fabric on one device, for what neither runs on several nor is compiled; sets the threads.

    Raises:
        UserError: more was asked for, or a device that is not to be had.
    """
    set_threads(where.threads)
    if where.devices != 1:
        raise UserError(f"devices {where.devices}: {what} runs on one device; leave the option out")
    refuse_compile(where, what)
    return launch(where.accelerator, 1, where.precision)


def refuse_compile(where: LaunchConfig, what: str) -> None:
    """Raise UserError where compilation was asked for, of what is not compiled."""
    if where.compile:
        raise UserError(f"compile: {what} is not compiled; leave the option out")


def end_followers(fabric: Fabric) -> None:
    """After the last update: all processes of a training but the first end here.

    What comes then, evaluation, pictures, a word to the user, is for one.
    """
    if fabric.world_size > 1:
        fabric.barrier()
        if follows():
            raise SystemExit(0)


def set_threads(count: int | None) -> None:
    """Let torch use `count` threads within an operation; None leaves its own choice.

    Raises:
        UserError: `count` is less than 1.
    """
    if count is None:
        return
    if count < 1:
        raise UserError(f"--threads {count}: must be 1 or more")
    torch.set_num_threads(count)


def peak_memory() -> int:
    """Return the most memory used so far, in bytes.

    With CUDA in use: what torch allocated on the present device. Else: the process's resident
    set, Python and libraries included; 0 on Windows, which does not say.
    """
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    if sys.platform == "win32":
        return 0
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux KiB


def hardware() -> dict[str, Any]:
    """Return what a timing depends on: `cpu`, `cores`, `threads`, `torch`, `accelerators`."""
    return {
        "cpu": _cpu_name(),
        "cores": _usable_cores(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "accelerators": _accelerator_names(),
    }


def _present_accelerator(kind: str, field: str = "--accelerator", given: str = "") -> str:
    kind = "cuda" if kind == "gpu" and torch.cuda.is_available() else kind
    present = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    given = given or kind
    if kind == "auto":
        return next(accelerator for accelerator, here in present.items() if here)
    if kind not in (*present, "gpu"):
        raise UserError(f"{field} {given}: choose one of {', '.join(ACCELERATORS)}")
    if not present.get(kind, False):
        why = "" if kind == "mps" or torch.version.cuda else " (this torch is built without CUDA)"
        here = " or ".join(accelerator for accelerator, is_here in present.items() if is_here)
        raise UserError(f"{field} {given}: none is visible here{why}; use {here}")
    return kind


def _present_devices(accelerator: str, devices: int | str) -> int:
    if devices == "auto":
        return 1
    try:
        count = int(devices)
    except ValueError:
        raise UserError(f"devices {devices}: give a number, or auto") from None
    present = torch.cuda.device_count() if accelerator == "cuda" else 1
    if count < 1:
        raise UserError(f"devices {count}: must be 1 or more")
    if count > present and accelerator != "cpu":
        raise UserError(f"devices {count}: only {present} {accelerator} device(s) here")
    return count


def _require_compiler(accelerator: str) -> None:
    if sys.platform == "win32":
        compilers = ["cl"]
    else:
        compilers = [os.environ.get("CXX", ""), "g++", "clang++", "gcc", "clang"]
    if not any(shutil.which(name) for name in compilers if name):
        raise UserError("--compile: needs a C++ compiler, such as g++, on the PATH")
    if accelerator == "cuda" and importlib.util.find_spec("triton") is None:
        raise UserError("--compile: on CUDA it needs triton: pip install triton")


@cache
def _fabric_class() -> Any:
    from lightning_fabric import Fabric

    class CompilingFabric(Fabric):
        """Fabric whose `setup` compiles, where `launch` was told to."""

        compiles = False

        def setup(self, module: Any, *optimizers: Any, **options: Any) -> Any:
            """Compile before wrapping: Fabric takes the compiled module apart and together."""
            if self.compiles:
                module = torch.compile(module)
            return super().setup(module, *optimizers, **options)

        def setup_module(self, module: Any, *arguments: Any, **options: Any) -> Any:
            """See `setup`."""
            if self.compiles:
                module = torch.compile(module)
            return super().setup_module(module, *arguments, **options)

    return CompilingFabric


def _quieten() -> None:
    """Keep what Lightning tells its own developers off the user's screen."""
    for name in ("lightning_fabric", "lightning.fabric", "lightning_utilities"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # With `compile`, torch warns of a CUDA that no one asked for.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"lightning_fabric\..*")


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            for line in file:
                if line.startswith(("model name", "Hardware")):
                    return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()


def _usable_cores() -> int:
    # A container's share may be smaller than the machine.
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _accelerator_names() -> list[str]:
    if torch.cuda.is_available():
        return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return ["Apple MPS"] if torch.backends.mps.is_available() else []
