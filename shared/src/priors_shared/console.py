"""What a command shows: one-line errors, and progress that suits a terminal or a log file."""

import os
import sys
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

from priors_shared.errors import UserError


def run_cli(command: Callable[[], object]) -> None:
    """Run a command; end the process with one line on stderr where the user can mend the error.

    A `UserError` exits with code 2, as option errors do, an interrupt with 130, an `OSError`
    (disk full, no permission) with 1. If `command` returns an int other than 0, that is the exit
    code. With PRIORS_DEBUG=1 the traceback shows.

    Threads that wait do so passively (OMP_WAIT_POLICY, unless the user set it): on busy cores, torch's
    spinning threads hold up those with work. It must be set before torch is imported.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if os.environ.get("PRIORS_DEBUG", "") not in ("", "0"):
        code = command()
    else:
        try:
            code = command()
            sys.stdout.flush()
        except UserError as error:
            _fail(str(error), 2)
        except KeyboardInterrupt:
            _fail("interrupted", 130)
        except BrokenPipeError:
            # The reader of our output, such as `head`, has gone: not an error.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise SystemExit(0) from None
        except OSError as error:
            _fail(f"{error} (PRIORS_DEBUG=1 shows where)", 1)
    if isinstance(code, int) and code != 0:
        raise SystemExit(code)


def _fail(message: str, code: int) -> None:
    # Written in one piece and plainly: rich would wrap it and read its brackets as styles.
    sys.stderr.write(f"error: {' '.join(message.split())}\n")
    raise SystemExit(code) from None


class Progress:
    """Progress of one loop on stderr: a bar with ETA on a terminal, else a line now and then.

    Example:
        with Progress(1000, "train") as progress:
            for step in range(1000):
                progress.advance(loss=0.3)
    """

    def __init__(
        self,
        total: int,
        description: str,
        *,
        start: int = 0,
        quiet: bool = False,
        every_seconds: float | int = 10,
        stream: Any = None,
    ) -> None:
        """Prepare, show nothing yet.

        Args:
            total: steps of the whole loop.
            description: what runs, in a word or two.
            start: steps done before, by the run that is resumed.
            quiet: show nothing at all.
            every_seconds: between two lines, where there is no terminal.
            stream: text file to write to; stderr where None.
        """
        self.total, self.description, self.done = total, description, start
        self._start, self._quiet, self._every = start, quiet, every_seconds
        self._stream = stream
        self._metrics: dict[str, float | int | str] = {}
        self._bar: Any = None
        self._began = self._shown = 0.0

    def __enter__(self) -> "Progress":
        """Show the bar."""
        self._began = self._shown = time.monotonic()
        stream = self._stream if self._stream is not None else sys.stderr
        self._stream = stream
        if not self._quiet and stream.isatty():
            self._bar = _bar(stream)
            self._task = self._bar.add_task(
                self.description, total=self.total, completed=self.done, metrics=""
            )
            self._bar.start()
        return self

    def advance(self, steps: int = 1, /, **metrics: float | int | str) -> None:
        """Count `steps` more; `metrics` stay shown until they are given anew."""
        self.done += steps
        self._metrics.update(metrics)
        if self._quiet:
            return
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, metrics=self._metrics_text())
        elif time.monotonic() - self._shown >= self._every:
            self._write_line()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the bar; without a terminal, write the last line."""
        if self._bar is not None:
            self._bar.stop()
        elif not self._quiet:
            self._write_line()

    def _metrics_text(self) -> str:
        return "  ".join(
            f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in self._metrics.items()
        )

    def _write_line(self) -> None:
        self._shown = now = time.monotonic()
        elapsed, new = now - self._began, self.done - self._start
        left = f", {_clock(elapsed / new * (self.total - self.done))} left" if new > 0 else ""
        text = self._metrics_text()
        self._stream.write(
            f"{self.description}: {self.done}/{self.total}, {_clock(elapsed)}{left}"
            + (f"  {text}" if text else "")
            + "\n"
        )
        self._stream.flush()


def _bar(stream: Any) -> Any:
    # Late: rich takes 60 ms, which `--help` need not pay.
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as RichProgress

    return RichProgress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("eta"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[metrics]}", markup=False),
        console=Console(file=stream),
        refresh_per_second=4,
    )


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table on stdout, its first column to the left."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if title:
        sys.stdout.write(f"{title}\n")
    table = Table(box=box.SIMPLE_HEAD)
    for place, column in enumerate(columns):
        table.add_column(Text(column), justify="right" if place else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    width = None if sys.stdout.isatty() else 120  # in a file nothing need be broken at 80
    Console(file=sys.stdout, highlight=False, width=width).print(table)
