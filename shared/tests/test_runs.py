"""Run folders: what is recorded, what a resume may change, logs without a trace of the kill."""

import builtins
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from priors_shared import console, environment
from priors_shared.console import Progress, run_cli
from priors_shared.errors import UserError
from priors_shared.runs import Run, read_metrics, read_timing, training_seconds

CONFIG: dict[str, Any] = {"model": {"width": 32, "kinds": ("a", "b")}, "lr": 1e-3, "seed": 0}


def create(out: Path, config: dict[str, Any] | None = None, **options: Any) -> Run:
    options = {"command": "x train", "tensorboard": False, "quiet": True, **options}
    return Run.create(out, CONFIG if config is None else config, **options)


def test_folder_says_what_was_run(tmp_path: Path) -> None:
    run = create(tmp_path / "a" / "run")
    assert not run.resumed
    assert json.loads((run.out / "config.json").read_text()) == json.loads(json.dumps(CONFIG))
    found = json.loads((run.out / "environment.json").read_text())
    assert found["command"] == "x train"
    assert found["packages"]["torch"]
    assert found["hardware"]["cores"] >= 1
    assert {p.name for p in run.out.iterdir() if p.is_dir()} == {"checkpoints", "plots"}


def test_held_folder_needs_resume(tmp_path: Path) -> None:
    create(tmp_path / "run").close()
    with pytest.raises(UserError, match=r"^out: .* already holds a run: resume it"):
        create(tmp_path / "run")
    assert create(tmp_path / "run", resume=True).resumed


def test_foreign_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    for resume in (False, True):
        with pytest.raises(UserError, match=r"^out: .* is not empty"):
            create(tmp_path, resume=resume)
        with pytest.raises(UserError, match="a file is in the way"):
            create(tmp_path / "thesis.txt", resume=resume)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_resume_without_a_run_begins_one(tmp_path: Path) -> None:
    assert not create(tmp_path / "run", resume=True).resumed
    (tmp_path / "empty").mkdir()
    assert not create(tmp_path / "empty", resume=True).resumed


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"model": {"width": 64, "kinds": ("a", "b")}}, "model.width is 64, but .* has 32"),
        ({"model": {"width": 32, "kinds": ("a",)}}, r"model.kinds is \['a'\]"),
        ({"lr": 1e-2, "seed": 1}, "lr is 0.01"),
        ({"new": None}, "new is None, but .* has no such key"),
        ({"model": {"width": 32}}, "model.kinds is no such key, but .* has"),
        ({"lr": 2.0, "seed": 0, "model": {}}, r"model is \{\}, but .* no such key|lr is 2.0"),
    ],
)
def test_resume_with_another_config_names_the_key(
    tmp_path: Path, change: dict[str, Any], named: str
) -> None:
    create(tmp_path / "run").close()
    held = (tmp_path / "run" / "config.json").read_bytes()
    with pytest.raises(UserError, match=named):
        create(tmp_path / "run", {**CONFIG, **change}, resume=True)
    assert (tmp_path / "run" / "config.json").read_bytes() == held


def test_keys_that_may_differ(tmp_path: Path) -> None:
    create(tmp_path / "run").close()
    create(tmp_path / "run", {**CONFIG, "seed": 5}, resume=True, may_differ={"seed"}).close()
    with pytest.raises(UserError, match="seed"):
        create(tmp_path / "run", {**CONFIG, "seed": 5}, resume=True, may_differ={"lr"})


def test_each_resume_is_recorded(tmp_path: Path) -> None:
    create(tmp_path / "run", command="first").close()
    create(tmp_path / "run", command="second", resume=True).close()
    create(tmp_path / "run", command="third", resume=True).close()
    found = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert [found["command"], *(r["command"] for r in found["resumed"])] == [
        "first",
        "second",
        "third",
    ]


def log_steps(run: Run, first: int, last: int) -> None:
    for step in range(first, last + 1):
        run.log(step, loss=1 / step, name="train")


@pytest.mark.parametrize("torn", ["", '{"step": 8, "lo', '{"step": 1'])
def test_resumed_metrics_are_those_of_a_straight_run(tmp_path: Path, torn: str) -> None:
    straight = create(tmp_path / "straight")
    log_steps(straight, 1, 9)

    killed = create(tmp_path / "killed")
    log_steps(killed, 1, 7)  # the last checkpoint was at 5
    killed.close()
    with open(killed.out / "metrics.jsonl", "a") as file:
        file.write(torn)
    resumed = create(tmp_path / "killed", resume=True)
    assert len(resumed.metrics()) == 7
    resumed.truncate_after(5)
    log_steps(resumed, 6, 9)

    same = [(run.out / "metrics.jsonl").read_bytes() for run in (straight, resumed)]
    assert same[0] == same[1]
    timing = (resumed.out / "timing.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in timing] == [*range(1, 6), *range(5, 10)]


def test_logged_values(tmp_path: Path) -> None:
    run = create(tmp_path / "run")
    run.log(3, tensor=torch.tensor(0.5), count=2, note="x", none=None, nan=float("nan"))
    (line,) = read_metrics(run.out)
    assert str(line.pop("nan")) == "nan"
    assert line == {"step": 3, "tensor": 0.5, "count": 2, "note": "x", "none": None}
    with pytest.raises(TypeError, match="cannot log a dict"):
        run.log(4, bad={})
    with pytest.raises(UserError, match=r"metrics\.jsonl: no such file"):
        read_metrics(tmp_path)


def test_training_seconds_add_up_over_processes(tmp_path: Path) -> None:
    clocks = [(1, 2.0), (2, 5.0), (3, 1.5), (4, 4.0)]  # killed after step 2
    lines = [json.dumps({"step": step, "seconds": seconds}) for step, seconds in clocks]
    (tmp_path / "timing.jsonl").write_text("\n".join([*lines, '{"step": 5, "sec']))
    assert training_seconds(tmp_path) == 9.0
    assert training_seconds(tmp_path, 3) == 6.5
    assert training_seconds(tmp_path, 1) == 2.0
    assert training_seconds(tmp_path / "none") is None


def test_seconds_of_a_kill_are_counted(tmp_path: Path) -> None:
    """A clock that begins anew, and lines that a resume drops, would lose some."""
    run = create(tmp_path / "run")
    log_steps(run, 1, 3)
    run.close()
    timing = tmp_path / "run" / "timing.jsonl"
    timing.write_text("".join(f'{{"step": {n}, "seconds": {n * 100}}}\n' for n in (1, 2, 3)))
    for _ in range(2):  # killed again before its first line
        resumed = create(tmp_path / "run", resume=True)
        resumed.truncate_after(1)
        resumed.close()
        # Rounded down when it is read again, a clock would look like one that began anew.
        seconds = [line["seconds"] for line in read_timing(tmp_path / "run")]
        assert seconds == sorted(seconds)
    assert 300 <= (training_seconds(tmp_path / "run") or 0) < 400
    assert training_seconds(tmp_path / "run", 0) == 0


@pytest.mark.parametrize(
    "name", ["environment.json", "metrics.jsonl", "timing.jsonl", "config.json"]
)
@pytest.mark.parametrize(
    "damage",
    [b"{\n", b"\xff\xfe\n", b"[1]\n", b'{"step": "x", "resumed": 5}\n', b"[" * 90_000 + b"\n"],
)
def test_damage_ends_no_resume_with_a_traceback(tmp_path: Path, name: str, damage: bytes) -> None:
    with create(tmp_path / "run") as run:
        log_steps(run, 1, 3)
    path = tmp_path / "run" / name
    path.write_bytes(damage if name.endswith("json") else damage + path.read_bytes())
    if name == "config.json":
        with pytest.raises(UserError, match=r"config\.json"):
            create(tmp_path / "run", resume=True)
        return
    with create(tmp_path / "run", resume=True) as run:
        run.truncate_after(2)
        log_steps(run, 3, 3)
    assert [line["step"] for line in read_metrics(run.out)] == [1, 2, 3]
    assert training_seconds(run.out) is not None


OPEN = """
import sys
from pathlib import Path
from priors_shared.runs import Run
run = Run.create(Path(sys.argv[1]), {}, command="x", tensorboard=False)
print("open", flush=True)
sys.stdin.read()
"""


def test_a_run_is_open_in_one_process(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    with subprocess.Popen(
        [sys.executable, "-c", OPEN, str(tmp_path / "run")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
        with pytest.raises(UserError, match="another process is at work"):
            create(tmp_path / "run", {}, resume=True)
        assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == before
        other.kill()
        other.wait()
    create(tmp_path / "run", {}, resume=True).close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_names_the_file(tmp_path: Path) -> None:
    run = create(tmp_path / "run")
    run.close()
    (run.out / "metrics.jsonl").unlink()
    (run.out / "metrics.jsonl").symlink_to("/dev/full")
    run._open()
    with pytest.raises(OSError, match=r"No space left on device: '.*metrics\.jsonl'"):
        run.log(1, loss=1.0)


@pytest.mark.parametrize("place", ["empty", "link", "."])
def test_a_folder_that_was_there_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    monkeypatch.chdir(tmp_path / "empty" if place == "." else tmp_path)
    with pytest.raises(UserError, match="no data"), create(Path(place)):
        raise UserError("no data")
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["empty", "link"]


def test_metrics_are_on_disk_at_once(tmp_path: Path) -> None:
    run = create(tmp_path / "run")
    run.log(1, loss=1.0)
    assert (run.out / "metrics.jsonl").read_text().count("\n") == 1


def test_tensorboard_gets_the_numbers(tmp_path: Path) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with create(tmp_path / "run", tensorboard=True) as run:
        log_steps(run, 1, 3)
    with create(tmp_path / "run", tensorboard=True, resume=True) as run:
        run.truncate_after(2)
        run.log(3, loss=9.0)
    found = events.EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    found.Reload()
    assert [(e.step, round(e.value, 3)) for e in found.Scalars("loss")] == [
        (1, 1.0),
        (2, 0.5),
        (3, 9.0),
    ]


def test_runs_without_tensorboard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def refuse(name: str, *rest: Any, **options: Any) -> Any:
        if "tensorboard" in name:
            raise ImportError(name)
        return original(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with create(tmp_path / "run", tensorboard=True) as run:
        log_steps(run, 1, 2)
    assert len(run.metrics()) == 2
    assert not (run.out / "tensorboard").exists()


def test_figure_is_saved(tmp_path: Path) -> None:
    from matplotlib.figure import Figure

    path = create(tmp_path / "run").save_figure("curve", Figure())
    assert path == tmp_path / "run" / "plots" / "curve.png"
    assert path.read_bytes().startswith(b"\x89PNG")


def test_commit_outside_of_a_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "__file__", str(tmp_path / "environment.py"))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert environment.source_commit() is None


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_writes_lines_to_a_log(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(console.time, "monotonic", lambda: now)
    out = io.StringIO()
    with Progress(100, "train", start=10, stream=out, every_seconds=10) as progress:
        for _ in range(25):
            now += 1
            progress.advance(loss=0.51234)
    assert out.getvalue().splitlines() == [
        "train: 20/100, 0:10, 1:20 left  loss 0.5123",
        "train: 30/100, 0:20, 1:10 left  loss 0.5123",
        "train: 35/100, 0:25, 1:05 left  loss 0.5123",
    ]


def test_progress_draws_a_bar_on_a_terminal() -> None:
    out = Terminal()
    with Progress(4, "adapt [x]", stream=out) as progress:
        progress.advance(3, loss=0.25)
    assert "adapt [x]" in out.getvalue()
    assert "3/4" in out.getvalue()
    assert "loss 0.25" in out.getvalue()


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()])
def test_quiet_progress_is_silent(stream: io.StringIO) -> None:
    with Progress(4, "train", stream=stream, quiet=True, every_seconds=0) as progress:
        progress.advance()
    assert stream.getvalue() == ""


def raise_(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("--out x: a\nfile [red]is[/red] in the way"), 2, "error: --out x: a file [red]"),
        (KeyboardInterrupt(), 130, "error: interrupted"),
        (OSError(28, "No space left on device"), 1, "error: [Errno 28] No space left on device"),
    ],
)
def test_errors_are_one_line(
    error: BaseException,
    code: int,
    line: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("PRIORS_DEBUG", raising=False)
    with pytest.raises(SystemExit) as caught:
        run_cli(lambda: raise_(error))
    assert caught.value.code == code
    written = capsys.readouterr()
    assert written.err.startswith(line)
    assert written.err.count("\n") == 1
    assert written.out == ""


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRIORS_DEBUG", "1")
    with pytest.raises(UserError):
        run_cli(lambda: raise_(UserError("x")))


def test_a_bug_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        run_cli(lambda: 1 / 0)


def test_exit_codes() -> None:
    run_cli(lambda: None)
    run_cli(lambda: 0)
    with pytest.raises(SystemExit) as caught:
        run_cli(lambda: 3)
    assert caught.value.code == 3


@pytest.mark.parametrize(("set_by_user", "found"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_a_command_s_threads_wait_passively_unless_its_user_says_otherwise(
    set_by_user: str | None, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    if set_by_user is not None:
        monkeypatch.setenv("OMP_WAIT_POLICY", set_by_user)
    run_cli(lambda: None)
    assert os.environ["OMP_WAIT_POLICY"] == found


@pytest.mark.skipif(sys.platform == "win32", reason="needs head")
def test_reader_that_goes_away_is_no_error() -> None:
    code = (
        "import sys; from priors_shared.console import run_cli\n"
        "run_cli(lambda: [sys.stdout.write('line\\n') for _ in range(100000)])"
    )
    ran = subprocess.run(
        f'{sys.executable} -c "$CODE" | head -n 1',
        shell=True,
        capture_output=True,
        text=True,
        env={**os.environ, "CODE": code, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert (ran.stdout, ran.stderr) == ("line\n", "")


def test_a_run_refused_before_it_began_leaves_no_folder(tmp_path: Path) -> None:
    out = tmp_path / "runs" / "preset" / "0"
    with pytest.raises(UserError, match="no data"), create(out):
        raise UserError("no data")
    assert not (tmp_path / "runs").exists()

    (tmp_path / "runs" / "preset" / "1").mkdir(parents=True)
    with pytest.raises(UserError, match="no data"), create(out):
        raise UserError("no data")
    assert [p.name for p in (tmp_path / "runs" / "preset").iterdir()] == ["1"]


def test_a_run_that_began_is_kept_whatever_stops_it(tmp_path: Path) -> None:
    def begin_and_fail() -> None:
        with create(tmp_path / "run") as run:
            run.log(1, loss=1.0)
            raise UserError("the disk is full")

    with pytest.raises(UserError, match="the disk is full"):
        begin_and_fail()
    assert len(read_metrics(tmp_path / "run")) == 1
    with pytest.raises(UserError, match="again"), create(tmp_path / "run", resume=True):
        raise UserError("again")
    assert (tmp_path / "run" / "config.json").is_file()
    with pytest.raises(RuntimeError, match="ours"), create(tmp_path / "crash"):
        raise RuntimeError("a fault of ours: keep what is there")
    assert (tmp_path / "crash" / "config.json").is_file()


def test_a_following_process_leaves_the_run_to_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Run.create(tmp_path / "run", {"seed": 1}, command="c", tensorboard=False) as first:
        first.log(1, loss=0.5)
        before = {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}
        monkeypatch.setenv("LOCAL_RANK", "1")
        # Neither "already holds a run", nor a word or a line of its own.
        with Run.create(tmp_path / "run", {"seed": 1}, command="c") as follower:
            assert follower.quiet
            follower.log(1, loss=0.7)
            follower.truncate_after(0)
            follower.log_timing(1)
        assert {p: p.read_bytes() for p in before} == before
        monkeypatch.setenv("LOCAL_RANK", "0")
        first.log(2, loss=0.4)
    assert [line["loss"] for line in read_metrics(tmp_path / "run")] == [0.5, 0.4]
