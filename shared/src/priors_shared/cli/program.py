"""A console script: finds a verb, makes its options from a dataclass, and runs it."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, fields, is_dataclass
from importlib import import_module
from typing import Any, get_type_hints

import tyro

from priors_shared.console import run_cli
from priors_shared.errors import UserError
from priors_shared.options import parse_options, say, unknown

_COMMAND: ContextVar[tuple[str, ...]] = ContextVar("command")


def command_line() -> str:
    """The command that runs, as a shell would take it again."""
    return shlex.join(_COMMAND.get(tuple(sys.argv)))


@dataclass(frozen=True)
class Program:
    """A console script. Each verb is a frozen dataclass: its fields are the options, `run()` does the work.

    Example:
        PROGRAM = Program("memory-adapt", version="0.1.0", about="Learners that adapt online.",
                          verbs={"train": "memory_adapt.cli.train:Train"})

    A verb's docstring is its help. A verb that chooses its own defaults has a classmethod
    `parse(usage, args) -> verb`, such as `TrainVerb`'s.
    """

    name: str
    version: str
    about: str
    verbs: Mapping[str, str]
    """Name of a verb to "module:Class", which is imported when it is needed."""

    def run(self, argv: Sequence[str] | None = None) -> None:
        """Run the verb that the command line names; a user's error is one line on stderr, exit code 2."""
        run_cli(lambda: self.dispatch(list(sys.argv[1:] if argv is None else argv)))

    def dispatch(self, argv: list[str]) -> None:
        """`run`, with errors raised: for a group of verbs, whose program is named by two words."""
        if not argv or argv[0] in ("-h", "--help"):
            say(self._overview())
        elif argv[0] == "--version":
            say(f"{self.name} {self.version}")
        elif argv[0] in self.verbs:
            token = _COMMAND.set((*self.name.split(), *argv))
            try:
                self._run_verb(argv[0], argv[1:])
            finally:
                _COMMAND.reset(token)
        else:
            raise UserError(unknown("command", argv[0], list(self.verbs)))

    def _run_verb(self, name: str, args: list[str]) -> None:
        verb = self._verb(name)
        usage = f"{self.name} {name}"
        parse: Callable[[str, list[str]], Any] = getattr(
            verb, "parse", lambda usage, args: parsed(verb, usage, args)
        )
        known: Any = verb
        try:
            known = parse(usage, args)
            known.run()
        except ValueError as error:  # UserError, and what a configuration's own check raises
            if isinstance(error, UserError) or known is verb:
                raise UserError(_as_option(str(error), known)) from error.__cause__
            raise

    def _verb(self, name: str) -> Any:
        module, _, class_name = self.verbs[name].partition(":")
        return getattr(import_module(module), class_name)

    def _overview(self) -> str:
        width = max(map(len, self.verbs))
        about = {v: (self._verb(v).__doc__ or "").strip().partition("\n")[0] for v in self.verbs}
        listed = "\n".join(f"  {verb:<{width}}  {text}" for verb, text in about.items())
        return (
            f"usage: {self.name} COMMAND ... [--help]\n\n{self.about}\n\n"
            f"commands:\n{listed}\n\n"
            f"'{self.name} COMMAND --help' lists a command's options."
        )


def parsed(verb: Any, usage: str, args: Sequence[str], **settings: Any) -> Any:
    """A verb with the options of a command line; nested dataclasses' options stand beside its own."""
    settings = {"description": verb.__doc__, "config": (tyro.conf.OmitArgPrefixes,), **settings}
    return parse_options(verb, usage, args, **settings)


def _as_option(message: str, verb: Any) -> str:
    """A message that begins with a field of the verb's, with the option's name in its place."""
    message = re.sub(r"^Error parsing [\w.]+: ", "", message)
    field = re.match(r"[a-z]\w*(?=[: ])", message)  # not the first word of a path
    names = _option_names(verb if isinstance(verb, type) else type(verb))
    if field is None or field[0] not in names:
        return message
    return f"--{field[0].replace('_', '-')}{message[field.end() :]}"


def _option_names(verb: type[Any]) -> set[str]:
    """The names of a dataclass's fields, and of those of its nested dataclasses."""
    names = {f.name for f in fields(verb)} | set(getattr(verb, "config_fields", ()))
    for hint in get_type_hints(verb).values():
        if isinstance(hint, type) and is_dataclass(hint):
            names |= _option_names(hint)
    return names
