"""The `reproduce` command: finds what packages register, survives what fails, says where it is."""

from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from priors_shared import reproduce
from priors_shared.console import Progress
from priors_shared.reports import Section, Verdict

CALLS: list[tuple[str, bool]] = []


def good(report_dir: Path, quick: bool, progress: type[Progress], results: Path) -> Section:
    CALLS.append(("good", quick))
    with progress(2, "good train") as bar:
        bar.advance(2, loss=0.5)
    (report_dir / "figure.txt").write_text("drawn")
    return Section("Good <package>", [Verdict(True, "It holds.")])


def bad(report_dir: Path, quick: bool, progress: type[Progress], results: Path) -> Section:
    CALLS.append(("bad", quick))
    raise RuntimeError("lost the\nplot")


def odd(report_dir: Path, quick: bool, progress: type[Progress], results: Path) -> str:
    return "not a section"


def interrupted(report_dir: Path, quick: bool, progress: type[Progress], results: Path) -> Section:
    raise KeyboardInterrupt


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes functions of this file the registered ones, in place of the installed packages'."""
    import sys

    CALLS.clear()
    module = ModuleType("fake_packages")
    module.__dict__.update(good=good, bad=bad, odd=odd, interrupted=interrupted)
    monkeypatch.setitem(sys.modules, "fake_packages", module)
    monkeypatch.delenv("PRIORS_DEBUG", raising=False)

    def set_registered(**entries: str) -> None:
        found = [
            EntryPoint(name.replace("_", "-"), f"fake_packages:{function}", reproduce.GROUP)
            for name, function in entries.items()
        ]
        monkeypatch.setattr(reproduce, "entry_points", lambda group: found)

    return set_registered


def run(*arguments: Any) -> int:
    codes: list[Any] = [0]
    try:
        reproduce.main([str(argument) for argument in arguments])
    except SystemExit as end:
        codes.append(end.code)
    return codes[-1]


def test_report_is_written_and_its_path_printed(
    tmp_path: Path, register: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    register(good="good")
    assert run("--out", tmp_path / "report") == 0
    written = capsys.readouterr()
    assert written.out == f"{tmp_path / 'report' / 'index.html'}\n"
    assert "good train: 2/2" in written.err
    page = (tmp_path / "report" / "index.html").read_text()
    assert "Good &lt;package&gt;" in page
    assert "It holds." in page
    assert (tmp_path / "report" / "good" / "figure.txt").exists()
    assert CALLS == [("good", True)]


@pytest.mark.parametrize(
    ("failing", "line"), [("bad", "RuntimeError: lost the plot"), ("odd", "TypeError: .*str")]
)
def test_a_failing_package_does_not_stop_the_others(
    tmp_path: Path,
    register: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
    failing: str,
    line: str,
) -> None:
    import re

    register(a_first="good", failing_one=failing, z_last="good")
    assert run("--out", tmp_path) == 1
    assert re.search(f"^error: failing-one: {line}", capsys.readouterr().err, re.MULTILINE)
    page = (tmp_path / "index.html").read_text()
    assert page.count("<h2>Good") == 2
    assert re.search(f"It could not be run. {line}", page)
    assert "Traceback" in (tmp_path / "failing-one" / "error.txt").read_text()
    # Mended, it leaves no stale error behind.
    register(failing_one="good")
    assert run("--out", tmp_path) == 0
    assert not (tmp_path / "failing-one" / "error.txt").exists()


def test_a_package_that_cannot_be_imported_is_reported(
    tmp_path: Path, register: Callable[..., None]
) -> None:
    register(absent="no_such_function", good="good")
    assert run("--out", tmp_path) == 1
    assert "AttributeError" in (tmp_path / "index.html").read_text()
    assert CALLS == [("good", True)]


def test_an_interrupted_run_leaves_its_report(
    tmp_path: Path, register: Callable[..., None]
) -> None:
    register(a="good", b="interrupted", c="good")
    assert run("--out", tmp_path) == 130
    assert "Good" in (tmp_path / "index.html").read_text()
    assert CALLS == [("good", True)]


def test_only_and_full(tmp_path: Path, register: Callable[..., None]) -> None:
    register(good="good", bad="bad")
    assert run("--out", tmp_path, "--only", "good", "--full") == 0
    assert CALLS == [("good", False)]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--only", "goood"], "error: --only goood: choose from bad, good"),
        (["--out", __file__], "error: --out .*: a file is in the way"),
        (["--quick"], "unrecognized arguments: --quick"),
    ],
)
def test_wrong_options_end_with_two(
    register: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    line: str,
) -> None:
    import re

    monkeypatch.chdir(tmp_path)
    register(good="good", bad="bad")
    assert run(*arguments) == 2
    assert re.search(line, capsys.readouterr().err)
    assert CALLS == []


def test_nothing_installed_is_said(
    register: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    register()
    assert run() == 2
    assert capsys.readouterr().err.startswith("error: no experiments are installed")
