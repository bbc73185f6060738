"""The pair of files that every checkpoint is: tensors, and a JSON record that holds their SHA-256.

Both new files are written and synced beside the old ones before either is renamed into place, weights
first. A process killed between the two renames leaves the new weights, the old record and the new
record under its temporary name: the digest tells the reader which record belongs to the weights.
So at any moment the folder reads as the old pair or as the new pair. Of a training's processes on
several devices the first alone writes.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from priors_shared.errors import UserError, first_line
from priors_shared.files import PENDING, naming, read_json
from priors_shared.launching import follows

SCHEMA = 1
WEIGHTS, CONFIG = "model.safetensors", "config.json"
DIGEST, RECORD_DIGEST = "digest", "record_digest"
"""SHA-256 of the tensors' file; and of the record, that digest included. Records of before have the first alone."""


def write_pair(
    folder: Path,
    weights: str,
    record_name: str,
    tensors: Mapping[str, Tensor],
    record: Mapping[str, Any],
) -> None:
    """Replace a pair as one atomic step; `record` gets the schema and the digests."""
    if follows():
        return
    content = safetensors.torch.save(dict(tensors))
    # Serialised before anything is touched: a value that JSON lacks leaves the old pair alone.
    whole = {"schema": SCHEMA, **record, DIGEST: hashlib.sha256(content).hexdigest()}
    whole = json.loads(json.dumps(whole))
    whole[RECORD_DIGEST] = _digest_of_record(whole)
    text = json.dumps(whole, indent=2) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    # A killed save may have left the only record of the present weights under its temporary name.
    _finish_interrupted(folder, weights, record_name)
    for name, data in ((weights, content), (record_name, text.encode())):
        pending = folder / f"{name}{PENDING}"
        try:
            with naming(folder / name), open(pending, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except OSError:  # the disk is full: what half a file takes of it is needed
            pending.unlink(missing_ok=True)
            raise
    for name in (weights, record_name):
        os.replace(folder / f"{name}{PENDING}", folder / name)
    _sync_folder(folder)


def read_pair(
    folder: Path, weights: str, record_name: str, *, kind: str
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the record and the tensors that it describes.

    Raises:
        UserError: nothing there, another kind or schema, or files that are damaged or do not belong together.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such checkpoint folder")
    record: dict[str, Any] | None = None
    # The second name: a save was killed between its two renames. The third look: a save finished
    # while we read.
    for name in (record_name, f"{record_name}{PENDING}", record_name):
        found = read_record(folder / name, tolerant=name != record_name)
        if found is None:
            continue
        record, content = found, _read_bytes(folder / weights)
        if record[DIGEST] == hashlib.sha256(content).hexdigest():
            break
    else:
        if record is None:
            raise UserError(f"{folder}: no checkpoint here ({record_name} is missing)")
        _check_record(folder / record_name, record, kind)
        raise UserError(
            f"{folder / weights}: truncated, changed or not the file that {record_name} describes "
            "(SHA-256 differs); copy both files again, or use another checkpoint"
        )
    _check_record(folder / record_name, record, kind)
    try:
        return record, safetensors.torch.load(content)
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(
            f"{folder / weights}: not a safetensors file ({first_line(error)})"
        ) from error


def read_record(path: Path, *, tolerant: bool) -> dict[str, Any] | None:
    """Return a checkpoint's record; None where there is none, or no whole one if `tolerant`.

    Raises:
        UserError: something else, unless `tolerant`.
    """
    try:
        record = read_json(path)
        if not all(isinstance(record.get(key), str) for key in ("kind", DIGEST)):
            raise UserError(f"{path}: not the record of a checkpoint (no schema, kind and digest)")
    except FileNotFoundError:
        return None
    except UserError:
        if tolerant:
            return None
        raise
    return record


def require_finite(tensors: Mapping[str, Tensor], where: Path) -> None:
    """Refuse weights that are not numbers, which predict nothing.

    Raises:
        UserError: names the first.
    """
    for name, value in tensors.items():
        if not torch.isfinite(value).all():
            raise UserError(
                f"{where}: the weights are not finite ({name}): the training diverged; train with a lower "
                "learning rate"
            )


def model_state(model: nn.Module) -> dict[str, Tensor]:
    """A module's `state_dict` on the CPU, under names without the prefixes of `torch.compile`."""
    state = {name.replace("_orig_mod.", ""): v for name, v in model.state_dict().items()}
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"state_dict entry {name} is a {type(value).__name__}, not a tensor")
    return {name: stored(value) for name, value in state.items()}


def stored(tensor: Tensor) -> Tensor:
    """A copy for the file."""
    # Cloned: safetensors refuses tensors that share memory, such as tied weights.
    return tensor.detach().to("cpu", copy=True).contiguous()


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: missing; copy the whole folder") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error


def _check_record(path: Path, record: Mapping[str, Any], kind: str) -> None:
    if record.get("schema") != SCHEMA:
        raise UserError(
            f"{path}: checkpoint schema {record.get('schema')}, this version reads {SCHEMA}; "
            "install the version that wrote it"
        )
    if record["kind"] != kind:
        raise UserError(f"{path}: the checkpoint holds a {record['kind']}, not a {kind}")
    if record.get(RECORD_DIGEST, digest := _digest_of_record(record)) != digest:
        raise UserError(
            f"{path}: changed since it was written (SHA-256 differs); copy the checkpoint again"
        )


def _digest_of_record(record: Mapping[str, Any]) -> str:
    hashed = {key: value for key, value in record.items() if key != RECORD_DIGEST}
    return hashlib.sha256(json.dumps(hashed, sort_keys=True).encode()).hexdigest()


def _finish_interrupted(folder: Path, weights: str, record_name: str) -> None:
    pending = folder / f"{record_name}{PENDING}"
    if not (folder / weights).is_file():
        return
    record = read_record(pending, tolerant=True)  # None: killed while it was written
    digest = hashlib.sha256((folder / weights).read_bytes()).hexdigest() if record else ""
    if record and record[DIGEST] == digest:
        os.replace(pending, folder / record_name)
        _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:
        return  # Windows opens no folders
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
