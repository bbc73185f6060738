"""Console scripts: a verb's errors name options, paths stay as they are, defaults are a preset's."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest

from priors_shared import testing
from priors_shared.cli import Program, TrainVerb
from priors_shared.errors import UserError
from priors_shared.ranges import require


@dataclass(frozen=True, kw_only=True)
class Net:
    width: int = 4

    def __post_init__(self) -> None:
        require(self, 1, "width")


@dataclass(frozen=True, kw_only=True)
class Config:
    net: Net = field(default_factory=Net)
    seed: int = 0


def wide() -> Config:
    """A wide one"""
    return Config(net=Net(width=64))


@dataclass(frozen=True, kw_only=True)
class Train(TrainVerb):
    """Train a thing."""

    presets: ClassVar[Any] = {"wide": wide}
    config: Config

    def train(self, run: Any) -> None:
        run.log(1, width=self.config.net.width)
        (run.out / "checkpoints" / "x").touch()

    def report(self, run: Any) -> None:
        """Say nothing."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """Look at a file."""

    out: Path = Path("x")
    says: str = ""

    def run(self) -> None:
        raise UserError(self.says)


PROGRAM = Program(
    "thing",
    version="1",
    about="Things.",
    verbs={"train": f"{__name__}:Train", "look": f"{__name__}:Look"},
)


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Program, "_verb", lambda _, name: {"train": Train, "look": Look}[name])


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    return testing.refused(PROGRAM.run, capsys, *argv)


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("out: a file is in the way", "--out: a file is in the way"),
        ("says must be short", "--says must be short"),
        ("out.csv: no such file", "out.csv: no such file"),  # a path that begins like an option
        ("out/a.csv: no such file", "out/a.csv: no such file"),
        ("seed: no field of this verb", "seed: no field of this verb"),
    ],
)
def test_a_librarys_error_becomes_the_options(
    said: str, shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refused(capsys, "look", "--says", said) == f"error: {shown}"


def test_errors_of_nested_settings_name_their_option(capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(capsys, "train", "wide", "--width", "0")
    assert line.startswith("error: --width must be at least 1, got 0")
    assert "did you mean --width?" in refused(capsys, "train", "wide", "--widht", "3")
    assert "unknown preset 'wiede': did you mean wide?" in refused(capsys, "train", "wiede")
    assert "unknown command 'trian': did you mean train?" in refused(capsys, "trian")


def test_a_preset_gives_the_defaults_and_names_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    PROGRAM.run(["train", "wide", "--seed", "3", "--quiet"])
    lines = (tmp_path / "runs" / "wide" / "3" / "metrics.jsonl").read_text()
    assert lines == '{"step": 1, "width": 64}\n'
    assert "already holds a run" in refused(capsys, "train", "wide", "--seed", "3", "--quiet")
    PROGRAM.run(["train", "wide", "--seed", "3", "--quiet", "--resume"])
    with pytest.raises(SystemExit):
        PROGRAM.run(["train", "wide", "--help"])
    assert "default: 64" in capsys.readouterr().out
