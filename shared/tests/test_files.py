"""Files whole or not at all, what stands at a path, folders made and removed, one process a folder."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from priors_shared.errors import UserError
from priors_shared.files import (
    check_output_file,
    check_output_folder,
    fresh_folder,
    lock_folder,
    read_json,
    replacing,
    write_atomically,
)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_atomically(path, "old")

    def fail() -> None:
        with replacing(path) as pending:
            pending.write_text("half")
            raise RuntimeError("shown")

    with pytest.raises(RuntimeError, match="shown"):
        fail()
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
    write_atomically(path, b"\x00new")
    assert path.read_bytes() == b"\x00new"


def test_a_full_disk_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match=r"No space left on device: '.*a\.json'"):
        write_atomically(tmp_path / "a.json", "text")
    assert not list(tmp_path.iterdir())


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    file, link, dangling = tmp_path / "far" / "file", tmp_path / "link", tmp_path / "dangling"
    link.symlink_to(file)
    dangling.symlink_to(tmp_path / "far" / "later")
    for path in (link, dangling):
        write_atomically(path, "text")
        assert path.is_symlink()
        assert path.read_text() == "text"
    assert {p.name for p in (tmp_path / "far").iterdir()} == {"file", "later"}


def test_what_is_no_regular_file_is_written_directly(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_atomically(pipe, "text")
    assert os.read(reader, 100) == b"text"
    os.close(reader)
    assert pipe.is_fifo()
    write_atomically(Path(os.devnull), "text")
    assert Path(os.devnull).is_char_device()


def test_a_name_that_is_not_utf8_can_be_written(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a", os.fsdecode(b"caf\xe9"))
    assert (tmp_path / "a").read_text() == "caf\\udce9"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[" * 100_000, "not JSON"),
        (b"\xff", "not JSON"),
        (b"9" * 5000, "not JSON"),
        (b"[]", "not a JSON object"),
    ],
)
def test_odd_json_is_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"a\.json: {message}") as caught:
        read_json(path)
    assert "\n" not in str(caught.value)


def test_outputs_are_checked_and_nothing_is_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    (tmp_path / "empty").mkdir()
    before = sorted(tmp_path.rglob("*"))
    for good in (tmp_path / "file", tmp_path / "new" / "below", Path(os.devnull), Path("new.csv")):
        check_output_file(good)
    for good in (tmp_path / "empty", tmp_path / "new" / "below"):
        check_output_folder(good)
    for path, message in {
        tmp_path / "full": "is a folder: give the name of a file",
        tmp_path / "file" / "below": "is a file, not a folder",
        tmp_path / ("x" * 300): "no name for a file",
        tmp_path / "null\0byte": "no name for a file",
    }.items():
        with pytest.raises(UserError, match=message):
            check_output_file(path)
    with pytest.raises(UserError, match="is not empty"):
        check_output_folder(tmp_path / "full")
    with pytest.raises(UserError, match="a file is in the way"):
        check_output_folder(tmp_path / "file")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("place", ["new/deep/er", "empty", "link", "dangling", "."])
def test_only_what_was_made_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    base = tmp_path / "base"
    (base / "empty").mkdir(parents=True)
    (tmp_path / "link").symlink_to(base / "empty")
    (tmp_path / "dangling").symlink_to(base / "later")
    out = base / place if place in ("new/deep/er", "empty") else tmp_path / place
    if place == ".":
        monkeypatch.chdir(base / "empty")
        out = Path()
    before = sorted(tmp_path.rglob("*"))

    def fail() -> None:
        with fresh_folder(out) as folder:
            (folder / "sub").mkdir()
            (folder / "sub" / "file").touch()
            (folder / "file").touch()
            raise RuntimeError("shown")

    with pytest.raises(RuntimeError, match="shown"):
        fail()
    assert sorted(tmp_path.rglob("*")) == before


HOLD = """
import sys
from pathlib import Path
from priors_shared.files import lock_folder
lock = lock_folder(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def test_one_process_a_folder_until_it_dies(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(UserError, match="another process is at work there"):
            lock_folder(tmp_path)
        other.kill()
        other.wait()
    lock = lock_folder(tmp_path)
    assert lock is not None
    lock.close()
