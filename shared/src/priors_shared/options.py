"""Options of console scripts, from dataclasses by tyro; errors are one line. Importing this is cheap: no torch."""

from __future__ import annotations

import contextlib
import difflib
import io
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tyro
from tyro.conf import Positional, arg

from priors_shared.errors import UserError

_Options = TypeVar("_Options")


def say(text: str = "") -> None:
    """A line of a command's result, on stdout."""
    sys.stdout.write(f"{text}\n")


def note(text: str) -> None:
    """A remark, on stderr."""
    sys.stderr.write(f"note: {text}\n")


def described(metavar: str, default: str) -> Any:
    """How the help shows an option whose default is not a value: by what it means."""
    return arg(metavar=metavar, help_behavior_hint=default)


def parse_options(
    options: type[_Options], program: str, args: Sequence[str], **settings: Any
) -> _Options:
    """The options on the command line of `program` (with its verb); a wrong one is a one-line UserError."""
    stderr = io.StringIO()
    try:
        with contextlib.redirect_stderr(stderr):
            return tyro.cli(options, prog=program, args=list(args), **settings)
    except SystemExit as stop:
        if not stop.code:  # --help
            raise
        raise UserError(_one_line(stderr.getvalue(), program)) from None
    except UserError:
        raise
    except ValueError as error:  # of a configuration's own check
        raise UserError(str(error)) from None


def _one_line(box: str, program: str) -> str:
    """tyro's boxed message as one line: what is wrong, the nearest options, where the help is."""
    # Frames are drawn with lines, or in ASCII where the terminal has no others.
    lines = [re.sub(r"[│╭╮╰╯─|]+|-{3,}|\+-|-\+", " ", line).strip() for line in box.splitlines()]
    text = " ".join(line for line in lines[1:] if line)
    text = re.split(r"Argument helptext|For full helptext|Perhaps you meant", text)[0].strip()
    near = re.search(r"Perhaps you meant:?(.*?)(?:For full helptext|$)", " ".join(lines), re.DOTALL)
    names = list(dict.fromkeys(re.findall(r"(?<![\w-])--[\w.-]+", near.group(1)))) if near else []
    hint = f"; did you mean {' or '.join(names[:3])}?" if names else ""
    return f"{text}{hint} ({program} --help lists the options)"


@dataclass(frozen=True, kw_only=True)
class ReproduceOptions:
    """Options of every package's `reproduce`."""

    experiments: Annotated[Positional[tuple[str, ...]], arg(metavar="[EXPERIMENT ...]")] = ("all",)
    """names of experiments, or all"""
    preset: Literal["cpu", "paper"] = "cpu"
    """cpu: small networks, one core. paper: the thesis' setting"""
    out: Annotated[Path, arg(metavar="DIR")] = Path("results")
    """folder for the results: JSON, tables, figures"""
    runs: Annotated[Path, arg(metavar="DIR")] = Path("runs")
    """folder of the trainings: those that it holds are resumed or used again"""
    quick: bool = False
    """evaluate what is trained already, train nothing"""
    training: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="")] = None
    """do this training of one experiment alone, and write no results"""
    plan: bool = False
    """list the experiments' trainings and how far they are, run nothing"""


def run_experiments(
    program: str,
    args: Sequence[str],
    names: Sequence[str],
    load: Callable[[], Mapping[str, Callable[..., None]]],
) -> None:
    """The verb `reproduce`: run the experiments named, beside the thesis' numbers.

    names: of the experiments, for the help.
    load: imports the experiments, `run(preset=, out=, quick=, runs=)` by name; called after parsing.
    """
    options = parse_options(
        ReproduceOptions,
        f"{program} reproduce",
        args,
        description="Run the experiments of the thesis, beside its numbers. EXPERIMENT is one of "
        f"{', '.join(names)}, or all.",
    )
    experiments = load()
    chosen = list(experiments) if "all" in options.experiments else list(options.experiments)
    for name in chosen:
        if name not in experiments:
            raise UserError(unknown("experiment", name, [*experiments, "all"]))
    if options.plan:
        _say_plan(experiments, chosen, options)
        return
    if options.training is not None and len(chosen) != 1:
        raise UserError("--training: name the one experiment that it is of")
    options.out.mkdir(parents=True, exist_ok=True)
    for name in chosen:
        say(f"{name} ({options.preset})")
        where = {"preset": options.preset, "out": options.out, "runs": options.runs}
        if options.training is None:
            experiments[name](quick=options.quick, **where)
        else:
            experiments[name].train_only(options.training, **where)  # type: ignore[attr-defined]
    if options.training is None:
        say(f"written  {options.out}")


def _say_plan(
    experiments: Mapping[str, Any], chosen: Sequence[str], options: ReproduceOptions
) -> None:
    for name in chosen:
        hours = experiments[name].experiment(options.preset).core_hours
        expected = "" if hours is None else f"  ({hours:g} core-hours each)"
        say(f"{name}{expected}")
        planned = experiments[name].trainings(preset=options.preset, runs=options.runs)
        for training, at in planned.items():
            say(f"  {at.state:<8} {training}")


def preset_and_rest(
    verb: str, args: list[str], presets: Mapping[str, Callable[[], Any]]
) -> tuple[str, list[str], str]:
    """The preset that a command begins with, what is left to parse, and what the help says of it.

    presets: functions by name; a docstring is a line of help.
    """
    if args and not args[0].startswith("-"):
        preset, rest = args[0], args[1:]
    elif {"-h", "--help"} & set(args):
        preset, rest = next(iter(presets)), list(args)
    else:
        raise UserError(f"{verb} needs a preset first: choose {', '.join(presets)}")
    if preset not in presets:
        raise UserError(unknown("preset", preset, list(presets)))
    listed = "" if args[0] == preset else f" PRESET is one of {', '.join(presets)}."
    return preset, rest, f"{(presets[preset].__doc__ or '').strip()}.{listed}"


def unknown(what: str, name: str, known: Sequence[str]) -> str:
    """The message about a name that is not known, with the nearest one that is."""
    near = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"unknown {what} {name!r}: {hint}choose {', '.join(known)}"
