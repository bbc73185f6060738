"""What `priors_shared.cli` and `priors_shared.console` will give: verbs as dataclasses, shared options, tables."""
# house: alias

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from priors_shared.errors import UserError
from priors_shared.options import described, note, parse_options, run_program, say

__all__ = ["described", "note", "say"]

Count = int
Seed = Annotated[int, arg(help="seed of what is drawn")]
Device = Annotated[str, arg(help="where to run: cpu, cuda, mps")]
Threads = Annotated[int | None, described("INT", ""), arg(help="CPU threads")]
DataRoot = Annotated[
    str | None,
    arg(
        metavar="DIR",
        help="folder with the datasets",
        help_behavior_hint="(default: the environment variable PRIORS_DATA)",
    ),
]
OutFile = Annotated[
    Path | None,
    arg(metavar="FILE.json", help="write the results here", help_behavior_hint=""),
]
Checkpoint = Annotated[
    Positional[str],
    arg(
        metavar="CHECKPOINT",
        help="run folder, checkpoint folder, name of shipped weights, or Hugging Face Hub id",
    ),
]


@dataclass(frozen=True)
class Program:
    """A console script: its verbs are dataclasses with `run`, named "module:Class"."""

    name: str
    version: str
    about: str
    verbs: Mapping[str, str]

    def run(self, argv: Sequence[str] | None) -> None:
        """Run the verb; a user's error is one line on stderr and exit code 2."""
        verbs = {verb: self._verb(verb, path) for verb, path in self.verbs.items()}
        run_program(self.name, self.version, self.about, verbs, argv)

    def _verb(self, verb: str, path: str) -> tuple[Callable[[list[str]], None], str]:
        module, _, name = path.partition(":")
        cls: Any = getattr(import_module(module), name)
        about = (cls.__doc__ or "").strip().partition("\n")[0]

        def run(args: list[str]) -> None:
            sys.argv[1:] = [verb, *args]
            try:
                self._parsed(cls, f"{self.name} {verb}", args, about).run()
            except UserError as error:
                raise UserError(as_option(str(error), cls)) from error.__cause__

        return run, about

    def _parsed(self, cls: Any, program: str, args: list[str], about: str) -> Any:
        try:
            if hasattr(cls, "parse"):
                return cls.parse(program, args)
            return parse_options(cls, program, args, description=about)
        except ValueError as error:  # of a check of its fields
            raise UserError(str(error)) from None


def as_option(message: str, cls: Any) -> str:
    """A message that begins with a field of the verb, with the option's name in its place."""
    message = re.sub(r"^Error parsing [\w.]+: ", "", message)
    field = re.match(r"[a-z_]+", message)
    known = {f.name for f in fields(cls)} | set(getattr(cls, "config_fields", ()))
    if field is None or field[0] not in known:
        return message
    return f"--{field[0].replace('_', '-')}{message[field.end() :]}"


def command_line() -> str:
    """The command as typed."""
    return shlex.join(["memory-adapt", *sys.argv[1:]])


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on stdout."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if title:
        say(title)
    table = Table(box=box.SIMPLE_HEAD)
    for place, column in enumerate(columns):
        table.add_column(Text(column), justify="right" if place else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    width = None if sys.stdout.isatty() else 120  # in a file nothing need be broken at 80
    Console(file=sys.stdout, highlight=False, width=width).print(table)
