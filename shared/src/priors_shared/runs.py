"""Run folders: what was run, where, and what came out, so that a run resumes exactly.

```
OUT/config.json       the whole configuration; a resumed run must have the same
OUT/environment.json  command, Python, packages, hardware, commit
OUT/metrics.jsonl     one object per logged step; the same bytes for a resumed and a straight run
OUT/timing.jsonl      seconds at each logged step: what differs from run to run
OUT/checkpoints/  OUT/plots/  OUT/tensorboard/
```
"""

import json
import logging
import os
import sys
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import IO, Any, Protocol, runtime_checkable

from priors_shared.console import Progress
from priors_shared.environment import environment
from priors_shared.errors import UserError
from priors_shared.files import (
    check_output_folder,
    lock_folder,
    make_folder,
    naming,
    read_json,
    remove_made,
    write_atomically,
)
from priors_shared.launching import follows

_LOG = logging.getLogger(__name__)
_CONFIG, _METRICS, _TIMING = "config.json", "metrics.jsonl", "timing.jsonl"


@runtime_checkable
class Savable(Protocol):
    """A matplotlib figure, without importing matplotlib."""

    def savefig(self, fname: Any, /, **options: Any) -> Any:
        """Write the figure to a file."""


class Run:
    """One run and its folder; build it with `Run.create`, end it with `close` or `with`.

    While it is open, no other process can open the folder's run. In a training on several devices the first
    process writes; for the others nothing is logged or shown.
    """

    def __init__(self, out: Path, *, resumed: bool, tensorboard: bool, quiet: bool) -> None:
        """Use a folder that `create` prepared."""
        self.out = out
        self.resumed = resumed
        """Whether the folder held a run before; there may be a checkpoint to go on from."""
        self.checkpoints = out / "checkpoints"
        self.plots = out / "plots"
        self.quiet = quiet
        self._began = time.monotonic()
        self._open()
        self._wants_tensorboard = tensorboard
        self._writer: Any = None
        self._purge_step: int | None = None
        self._made: list[Path] = []  # of `out` and the folders above it, those that this run made
        self._lock: IO[str] | None = None
        self._seconds_before = 0.0  # of the processes that worked on the run before

    @classmethod
    def create(
        cls,
        out: Path,
        config: Mapping[str, Any],
        *,
        command: str,
        resume: bool = False,
        may_differ: Collection[str] = (),
        tensorboard: bool = True,
        quiet: bool = False,
    ) -> "Run":
        """Make the run folder, or open the one to resume.

        Args:
            out: the folder; without `resume` it must be missing or empty.
            config: the run's whole configuration, nested; written to config.json.
            command: the command line that a reader can repeat.
            resume: go on with the run in `out`; where there is none, begin it.
            may_differ: dotted keys of `config` that a resumed run may change, such as "threads".
            tensorboard: write OUT/tensorboard too, if tensorboard is installed.
            quiet: show no progress.

        Raises:
            UserError: `out` holds a run, or files that are no run, or a run of another config; or another process
                is at work there. Nothing is created then.
        """
        out, wanted = Path(out), _as_json(config)
        if follows():
            # The first process made the folder; whether there is a checkpoint, both see alike.
            return cls(out, resumed=True, tensorboard=False, quiet=True)
        _check(out, wanted, resume, may_differ)
        made = make_folder(out)
        lock = lock_folder(out)
        # Once more: another process may have begun a run since.
        resumed = _check(out, wanted, resume, may_differ)
        try:
            if not resumed:
                # First of all: killed at any later moment, the folder is a run that can be resumed.
                write_atomically(out / _CONFIG, json.dumps(wanted, indent=2) + "\n")
            for folder in (out / "checkpoints", out / "plots"):
                folder.mkdir(exist_ok=True)
            _record_environment(out / "environment.json", command)
            before = training_seconds(out) or 0.0
            # A process killed while it wrote leaves half a line: the next one would be glued to it.
            for name in (_METRICS, _TIMING):
                _keep_lines(out / name, sys.maxsize)
            run = cls(out, resumed=resumed, tensorboard=tensorboard, quiet=quiet)
        except BaseException:
            if not resumed:
                remove_made(out, made)
            raise
        run._made, run._lock, run._seconds_before = made, lock, before
        return run

    def log(self, step: int, **metrics: Any) -> None:
        """Append a line to metrics.jsonl, and the time of it to timing.jsonl.

        Args:
            step: updates done; never falls within a run, except after `truncate_after`.
            metrics: numbers, strings, or arrays of one number. What differs between two equal
                runs (seconds, memory) belongs in `log_timing`.
        """
        values = {name: _as_number(value) for name, value in metrics.items()}
        self._append(self._metrics, {"step": step, **values})
        self.log_timing(step)
        writer = self._tensorboard()
        if writer is not None:
            for name, value in values.items():
                if isinstance(value, int | float):
                    writer.add_scalar(name, value, step)

    def log_timing(self, step: int, **measurements: Any) -> None:
        """Append a line to timing.jsonl: seconds of all processes that worked on the run, and more."""
        seconds = round(self._seconds_before + time.monotonic() - self._began, 3)
        values = {name: _as_number(value) for name, value in measurements.items()}
        self._append(self._timing, {"step": step, "seconds": seconds, **values})

    def truncate_after(self, step: int) -> None:
        """Drop the lines of steps beyond `step`: a resumed run logs them again, the same.

        Call it with the step of the checkpoint before the first `log` of a resumed run.
        """
        if follows():
            return
        for file in (self._metrics, self._timing):
            file.close()
        _keep_lines(self.out / _METRICS, step)
        _keep_lines(self.out / _TIMING, step)
        self._open()
        self._purge_step = step + 1
        self.log_timing(step)  # the seconds of the lines that went stay counted

    def metrics(self) -> list[dict[str, Any]]:
        """Return what was logged, oldest first."""
        return read_metrics(self.out)

    def progress(self, total: int, description: str, *, start: int = 0) -> Progress:
        """Return progress with ETA on stderr, for `with`; silent if the run is quiet."""
        return Progress(total, description, start=start, quiet=self.quiet)

    def save_figure(self, name: str, figure: Savable) -> Path:
        """Write a matplotlib figure to OUT/plots/`name`.png and return the path."""
        path = self.plots / f"{name}.png"
        with naming(path):
            figure.savefig(path, dpi=150, bbox_inches="tight")
        return path

    def close(self) -> None:
        """Close the run's files, and leave its folder to other processes."""
        for file in (self._metrics, self._timing, self._writer, self._lock):
            if file is not None:
                file.close()

    def __enter__(self) -> "Run":
        """Return the run."""
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        """Close the run's files; where a user's error or the disk stopped it before it began, leave no folder.

        The next try must not ask to be resumed.
        """
        began = self.resumed or follows() or self.metrics() or any(self.checkpoints.iterdir())
        if isinstance(error, UserError | OSError) and not began:
            remove_made(self.out, self._made)
        self.close()

    def _open(self) -> None:
        def lines(name: str) -> IO[str]:
            path = Path(os.devnull) if follows() else self.out / name
            return path.open("a", encoding="utf-8")

        self._metrics, self._timing = lines(_METRICS), lines(_TIMING)

    @staticmethod
    def _append(file: IO[str], values: dict[str, Any]) -> None:
        with naming(Path(file.name)):
            file.write(json.dumps(values) + "\n")
            file.flush()

    def _tensorboard(self) -> Any:
        if self._wants_tensorboard and self._writer is None:
            try:
                # Late: it takes a second, and need not be installed.
                from torch.utils.tensorboard.writer import SummaryWriter
            except ImportError:
                self._wants_tensorboard = False
                _LOG.info("tensorboard is not installed: metrics go to metrics.jsonl alone")
            else:
                self._writer = SummaryWriter(
                    str(self.out / "tensorboard"), purge_step=self._purge_step
                )
        return self._writer


def read_metrics(out: Path) -> list[dict[str, Any]]:
    """Return the lines of a run folder's metrics.jsonl, oldest first; damaged ones are left out.

    Raises:
        UserError: `out` holds no metrics.
    """
    path = Path(out) / _METRICS
    if not path.is_file():
        raise UserError(f"{path}: no such file; is {out} a run folder?")
    return [entry for _, entry in _entries(path)]


def read_timing(out: Path) -> list[dict[str, Any]]:
    """Return the lines of a run folder's timing.jsonl, oldest first; damaged ones are left out."""
    return [entry for _, entry in _entries(Path(out) / _TIMING)]


def training_seconds(out: Path, last_step: int | None = None) -> float | None:
    """Return the seconds that a run took, over all the processes that worked on it; None: it logged none.

    Args:
        out: run folder.
        last_step: up to this step alone.
    """
    lines = [line for line in read_timing(out) if isinstance(line.get("seconds"), int | float)]
    total = last = 0.0
    for line in lines:
        if last_step is None or line["step"] <= last_step:
            # Lower than the one before: an older version's clock began anew in each process.
            total += last if line["seconds"] < last else 0
            last = line["seconds"]
    return round(total + last, 3) if lines else None


def _check(out: Path, wanted: Mapping[str, Any], resume: bool, may_differ: Collection[str]) -> bool:
    """Whether `out` holds the run to resume; refuses what it may not be. Creates nothing."""
    if not (out / _CONFIG).exists():
        try:
            check_output_folder(out)
        except UserError as error:
            raise UserError(f"out: {error}") from error
        return False
    if not resume:
        raise UserError(f"out: {out} already holds a run: resume it, or give another folder")
    _check_same(read_json(out / _CONFIG), wanted, out / _CONFIG, may_differ)
    return True


def _record_environment(path: Path, command: str) -> None:
    now = {"command": command, **environment()}
    first: dict[str, Any] = {}
    try:
        first = read_json(path) if path.exists() else {}
    except UserError as error:
        _LOG.warning("%s: it is written anew", error)
    if first:
        resumed = first.get("resumed")
        now = {**first, "resumed": [*(resumed if isinstance(resumed, list) else ()), now]}
    write_atomically(path, json.dumps(now, indent=2) + "\n")


def _check_same(
    held: Mapping[str, Any], wanted: Mapping[str, Any], path: Path, may_differ: Collection[str]
) -> None:
    before, now = _flat(held), _flat(wanted)
    for key in [*now, *(k for k in before if k not in now)]:
        if key in may_differ or (key in before and key in now and before[key] == now[key]):
            continue
        had = f"{before[key]!r}" if key in before else "no such key"
        has = f"{now[key]!r}" if key in now else "no such key"
        raise UserError(
            f"resume: {key} is {has}, but {path} has {had}: "
            "resume with the same options, or give another folder"
        )


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _as_json(config: Mapping[str, Any]) -> dict[str, Any]:
    # Through JSON and back: a tuple becomes a list, as it will be when the file is read.
    return json.loads(json.dumps(dict(config), default=str))


def _as_number(value: Any) -> Any:
    """Return arrays and tensors of one number as that number."""
    if isinstance(value, bool | int | float | str) or value is None:
        return value
    if hasattr(value, "item"):
        return value.item()
    raise TypeError(f"cannot log a {type(value).__name__}: give one number or a string")


def _entries(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """Return the lines that are whole, and what they say: killed in mid-write, a process leaves half a line."""
    entries = []
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    for number, line in enumerate(text.split("\n")[:-1], start=1):
        try:
            entry = json.loads(line)
            ours = isinstance(entry, dict) and isinstance(entry.get("step"), int | float)
        except (ValueError, RecursionError):
            ours = False
        if ours:
            entries.append((f"{line}\n", entry))
        else:
            _LOG.warning("%s: line %d is damaged and left out", path, number)
    return entries


def _keep_lines(path: Path, last_step: int) -> None:
    kept = [line for line, entry in _entries(path) if entry["step"] <= last_step]
    write_atomically(path, "".join(kept))
