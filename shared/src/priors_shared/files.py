"""Files that are whole or not there, outputs checked before the work, folders locked to one process."""

import importlib.util
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from priors_shared.errors import UserError, first_line

PENDING = ".next"
"""Suffix of a file that is not renamed into place yet."""
LOCK = ".lock"
fcntl: Any = importlib.import_module("fcntl") if importlib.util.find_spec("fcntl") else None
"""Windows has none."""


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file so that a kill leaves the old or the new one, never half of it; see `replacing`."""
    # A file name that is not UTF-8, or half an emoji, must not cost the whole text.
    data = content.encode(errors="backslashreplace") if isinstance(content, str) else content
    with replacing(path) as pending, open(pending, "wb") as file:
        file.write(data)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield where to write what shall be at `path`: renamed into place at the end, removed on failure.

    Behind a symbolic link the file that it names is replaced, not the link. What is no regular file, such as
    /dev/null or a pipe, is written directly. An error of the disk names `path`.
    """
    target = Path(os.path.realpath(path))
    with naming(path):
        if target.exists() and not target.is_file():
            yield target
            return
        pending = target.with_name(f"{target.name}{PENDING}")
        try:
            yield pending
            with open(pending, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(pending, target)
        except BaseException:
            pending.unlink(missing_ok=True)
            raise


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let an `OSError` that names no file, such as that of a full disk, name `path`."""
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file.

    Raises:
        FileNotFoundError: nothing there.
        UserError: anything else that keeps it from being read as an object.
    """
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits is a ValueError too
        raise UserError(f"{path}: not JSON ({first_line(error)})") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: not a JSON object")
    return value


def check_output_file(path: Path) -> None:
    """Refuse, before any work, a path at which no file can be written. Creates nothing.

    Raises:
        UserError: a folder, or a place that does not exist or may not be written.
    """
    target = _resolved(path)
    if target.is_dir():
        raise UserError(f"{path} is a folder: give the name of a file")
    if not target.exists():
        _check_place(path, target)
    elif not os.access(target, os.W_OK):
        raise UserError(f"{path}: may not be written")


def check_output_folder(out: Path) -> None:
    """Refuse, before any work, a folder for new files that holds some. Creates nothing.

    Raises:
        UserError: a file is in the way, the folder is not empty, or it cannot be made.
    """
    target = _resolved(out)
    if target.is_dir():
        if any(not is_trace(p) for p in target.iterdir()):
            raise UserError(f"{out} is not empty: give another folder")
        if not os.access(target, os.W_OK):
            raise UserError(f"{out}: may not be written")
    elif target.exists():
        raise UserError(f"{out}: a file is in the way: give another folder")
    else:
        _check_place(out, target)


@contextmanager
def fresh_folder(out: Path) -> Iterator[Path]:
    """Make a folder for new files and yield it; where that fails, everything made is removed again.

    Raises:
        UserError: see `check_output_folder`.
    """
    check_output_folder(out)
    made = make_folder(out)
    try:
        yield out
    except BaseException:
        remove_made(out, made)
        raise


def make_folder(out: Path) -> list[Path]:
    """Make a folder, and return those that were made, the deepest first."""
    target = Path(os.path.realpath(out))
    made = [folder for folder in (target, *target.parents) if not folder.exists()]
    target.mkdir(parents=True, exist_ok=True)
    return made


def remove_made(out: Path, made: list[Path]) -> None:
    """Empty a folder, and remove the folders of `make_folder`; one that was there before stays."""
    target = Path(os.path.realpath(out))
    with suppress(OSError):  # the error that led here is the one to show
        for path in target.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        for folder in made:
            folder.rmdir()


def is_trace(path: Path) -> bool:
    """Whether a killed process left it: a lock, or a file that was not renamed into place."""
    return path.name == LOCK or path.name.endswith(PENDING)


def lock_folder(folder: Path) -> IO[str] | None:
    """Let no other process work in a folder: until the file returned is closed, or this process ends.

    None where the system or its file system has no locks. Of processes that this one forks, none holds it.

    Raises:
        UserError: another process is at work there.
    """
    if fcntl is None:
        return None
    file = open(folder / LOCK, "a")  # noqa: SIM115  (it stays open)
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        if isinstance(error, BlockingIOError | PermissionError):
            raise UserError(f"{folder}: another process is at work there; wait for it") from None
        return None
    return file


def _resolved(path: Path) -> Path:
    try:
        target = Path(os.path.realpath(path))
        target.exists()  # the name may be too long to ask for
    except (OSError, ValueError) as error:
        raise UserError(f"{str(path)[:60]}...: no name for a file ({first_line(error)})") from error
    return target


def _check_place(path: Path, target: Path) -> None:
    place = next(folder for folder in target.parents if folder.exists())
    if not place.is_dir():
        raise UserError(f"{path}: {place} is a file, not a folder")
    if not os.access(place, os.W_OK):
        raise UserError(f"{path}: {place} may not be written")
