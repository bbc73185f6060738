"""Verbs that every package has: those that train by a preset, `presets`, and `reproduce`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from tyro.conf import Suppress, arg

from priors_shared.cli.program import command_line, parsed
from priors_shared.launching import LaunchConfig
from priors_shared.options import described, preset_and_rest, run_experiments, say

if TYPE_CHECKING:
    from priors_shared.runs import Run


@dataclass(frozen=True, kw_only=True)
class TrainVerb(ABC):
    """A verb that begins with a preset and trains in a run folder."""

    presets: ClassVar[Mapping[str, Callable[[], Any]]]
    """Functions that return a configuration, by name; a docstring is a line of help."""
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
    def parse(cls, usage: str, args: list[str]) -> Any:
        """The preset chooses the defaults of all options; what has none is still to be given."""
        preset, rest, about = preset_and_rest(usage.split()[-1], args, cls.presets)
        default = cls.defaults(preset)
        return parsed(cls, f"{usage} PRESET", rest, default=default, description=about)

    @classmethod
    def defaults(cls, preset: str) -> Any:
        """The verb as a preset has it."""
        return cls(preset=preset, config=cls.preset_config(preset))

    @classmethod
    def preset_config(cls, preset: str) -> Any:
        """A preset's configuration."""
        return cls.presets[preset]()

    @property
    def run_name(self) -> str:
        """The run folder's name, below its preset's, where the user gives none."""
        return str(self.config.seed)

    def run(self) -> None:
        """Train in the run folder, then report."""
        self.run_in(self.out or Path("runs") / self.preset / self.run_name)

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

    @abstractmethod
    def train(self, run: Run) -> None:
        """The training."""

    @abstractmethod
    def report(self, run: Run) -> None:
        """Plots, and what the user is told."""


@dataclass(frozen=True, kw_only=True)
class Presets:
    """List the presets."""

    presets: ClassVar[Callable[[], Mapping[str, Mapping[str, Callable[[], Any]]]]]
    """Returns presets by name, by the verbs that take them."""

    def run(self) -> None:
        """Print a name and a line each."""
        listed = type(self).presets()
        program = command_line().split()[0]
        width = max(len(name) for presets in listed.values() for name in presets)
        for verbs, presets in listed.items():
            say(f"{program} {verbs}")
            for name, preset in presets.items():
                say(f"  {name:<{width}}  {(preset.__doc__ or '').strip()}")


@dataclass(frozen=True, kw_only=True)
class Reproduce:
    """Run the experiments of the thesis, beside its numbers."""

    names: ClassVar[tuple[str, ...]]
    """Of the experiments, for the help."""
    load: ClassVar[Callable[[], Mapping[str, Callable[..., None]]]]
    """Imports the experiments, by name."""
    program: Suppress[str]
    args: Suppress[tuple[str, ...]]

    @classmethod
    def parse(cls, usage: str, args: list[str]) -> Reproduce:
        """Parsed when it runs."""
        return cls(program=usage.split()[0], args=tuple(args))

    def run(self) -> None:
        """Run those that are asked for."""
        run_experiments(self.program, self.args, self.names, type(self).load)
