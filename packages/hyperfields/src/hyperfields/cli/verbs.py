"""How verbs are found, parsed and run; the part that is the same in all verbs that train."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import tyro
from tyro.conf import Suppress, arg

from hyperfields.config import LaunchConfig
from priors_shared.errors import UserError
from priors_shared.options import described, parse_options, preset_and_rest

if TYPE_CHECKING:
    from priors_shared.runs import Run


def verb(program: str, name: str, place: str) -> Callable[[list[str]], None]:
    """What runs a verb, a dataclass at "module:Class", on its arguments."""

    def run(args: list[str]) -> None:
        module, _, class_name = place.partition(":")
        options_class: Any = getattr(import_module(module), class_name)
        settings: dict[str, Any] = {"description": options_class.__doc__}
        usage = f"{program} {name}"
        if issubclass(options_class, TrainVerb):
            preset, args, about = preset_and_rest(name, args, options_class.presets)
            settings = {"description": about, "default": options_class.of_preset(preset)}
            usage += " PRESET"
        options = parse_options(
            options_class, usage, args, config=(tyro.conf.OmitArgPrefixes,), **settings
        )
        try:
            options.run()
        except UserError as error:
            raise UserError(_as_option(str(error), options)) from None

    return run


def _as_option(message: str, options: Any) -> str:
    """A library's error names a field first; a command's user knows it as an option."""
    first, space, rest = message.partition(" ")
    name = first.rstrip(":")
    known = [options, *(getattr(options, part, None) for part in ("config", "launch"))]
    names = {spec.name for part in known if part is not None for spec in fields(part)}
    return (
        f"--{name.replace('_', '-')}{first[len(name) :]}{space}{rest}" if name in names else message
    )


def command_line() -> str:
    """The command as it was typed."""
    return shlex.join(["hyperfields", *sys.argv[1:]])


@dataclass(frozen=True, kw_only=True)
class TrainVerb:
    """A verb that begins with a preset and trains in a run folder."""

    presets: ClassVar[Mapping[str, Callable[[], Any]]]
    config: Any
    preset: Suppress[str] = ""
    launch: LaunchConfig = field(default_factory=LaunchConfig)
    out: Annotated[
        Path | None, arg(aliases=["-o"]), described("DIR", "(default: runs/PRESET/SEED)")
    ] = None
    """run folder"""
    resume: bool = False
    """go on with the run in the folder, or begin it where there is none"""

    @classmethod
    def of_preset(cls, preset: str) -> Any:
        """The verb as a preset sets it; what has no default is still to be given."""
        return cls(preset=preset, config=cls.preset_config(preset))

    @classmethod
    def preset_config(cls, preset: str) -> Any:
        """A preset's configuration."""
        return cls.presets[preset]()

    def run(self) -> None:
        """Train in the run folder, then report."""
        self.run_in(self.out or Path("runs") / self.preset / str(self.config.seed))

    def run_in(self, out: Path) -> None:
        """Train in a folder, or go on there; then report."""
        from priors_shared.runs import Run

        with Run.create(
            out,
            self.record(),
            command=command_line(),
            resume=self.resume,
            quiet=self.launch.quiet,
        ) as run:
            self.train(run)
            self.report(run)

    def record(self) -> dict[str, Any]:
        """What a resumed run must have the same."""
        return asdict(self.config)

    def train(self, run: Run) -> None:
        """The training."""
        raise NotImplementedError

    def report(self, run: Run) -> None:
        """Plots, and what the user is told."""
        raise NotImplementedError
