"""Checkpoints: weights and training state as safetensors + JSON, never pickle.

A checkpoint is a pair of files: tensors, and a JSON record that holds the tensors' SHA-256. Both
new files are written and synced beside the old ones before either is renamed into place, weights
first. A process killed between the two renames leaves the new weights, the old record and the new
record under its temporary name: the digest tells the reader which record belongs to the weights.
So at any moment the folder reads as the old pair or as the new pair. Of a training's processes on
several devices the first alone writes.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.optim import Optimizer

from priors_shared.errors import UserError, first_line
from priors_shared.launching import follows
from priors_shared.runs import Run

SCHEMA = 1
WEIGHTS, CONFIG = "model.safetensors", "config.json"
STATE, STATE_RECORD = "training.safetensors", "training.json"
_PENDING = ".next"  # suffix of a file that is complete but not renamed into place


def save_weights(
    folder: Path,
    model: nn.Module,
    *,
    kind: str,
    config: Mapping[str, Any],
    extra: Mapping[str, Any] | None = None,
    half: bool = False,
) -> None:
    """Write `model.safetensors` and `config.json` to `folder`, as one atomic step.

    Args:
        folder: made where it is missing; a checkpoint that it holds is replaced.
        model: its `state_dict` is stored, on the CPU; prefixes of `torch.compile` are dropped.
        kind: what the checkpoint is, such as "cl-lstm"; `load_weights` asks for it again.
        config: what `load_weights` needs to build the model anew; JSON values.
        extra: further top-level keys of config.json, such as accuracies.
        half: store floating-point numbers in 16 bits; `load_state_dict` brings them back to the model's own.
    """
    reserved = {"schema", "kind", "config", "digest"} & set(extra or {})
    if reserved:
        raise ValueError(f"extra may not hold {', '.join(sorted(reserved))}")
    record = {"schema": SCHEMA, "kind": kind, "config": dict(config), **(extra or {})}
    state = _model_state(model)
    if half:
        state = {name: v.half() if v.is_floating_point() else v for name, v in state.items()}
    _write_pair(folder, WEIGHTS, CONFIG, state, record)


def load_weights(
    folder_or_repo_id: str | Path, *, kind: str, revision: str | None = None
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return config.json as a dict, and the weights by name, on the CPU.

    Args:
        folder_or_repo_id: a folder that `save_weights` wrote; or, as a `str` that is no local
            folder, a Hugging Face Hub id `org/name`.
        kind: the kind that the caller can use.
        revision: branch, tag or commit, for a Hub id.

    Raises:
        UserError: nothing there, another kind or schema, or files that are damaged or do not
            belong together.
    """
    folder = Path(folder_or_repo_id)
    if not folder.exists():
        if isinstance(folder_or_repo_id, Path) or not _is_repo_id(folder_or_repo_id):
            raise UserError(f"{folder_or_repo_id}: no such checkpoint folder")
        folder = _download(folder_or_repo_id, revision)
    record, tensors = _read_pair(folder, WEIGHTS, CONFIG, kind=kind)
    return record, tensors


def save_training_state(
    folder: Path,
    *,
    model: nn.Module,
    optimizer: Optimizer | None,
    step: int,
    stage: int | str = 0,
    extra: Mapping[str, Any] | None = None,
    extra_tensors: Mapping[str, Tensor] | None = None,
) -> None:
    """Write all that an exact resume needs to `folder`, as one atomic step.

    Stored besides the arguments: the states of torch's CPU and CUDA random generators. The files
    are training.safetensors and training.json, so that a folder may also hold `save_weights`'.

    Args:
        folder: made where it is missing; a state that it holds is replaced.
        model: see `save_weights`.
        optimizer: its whole `state_dict` is kept; None where a stage has none.
        step: updates done.
        stage: where a training has several.
        extra: schedules, sampler positions, best scores: nested dicts, lists and tuples of JSON
            values and tensors.
        extra_tensors: further tensors by name, such as cached features or a generator's state.
    """
    tensors = {f"model/{name}": value for name, value in _model_state(model).items()}
    for name, value in (extra_tensors or {}).items():
        tensors[f"extra_tensors/{name}"] = _stored(value)
    # Fabric and other wrappers hand on state_dict, so the plain optimizer need not be unwrapped.
    optimizer_state = None if optimizer is None else optimizer.state_dict()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    random_state = {"cpu": torch.get_rng_state(), "cuda": cuda}
    record = {
        "schema": SCHEMA,
        "kind": "training state",
        "step": step,
        "stage": stage,
        "optimizer": _pack(optimizer_state, "optimizer", tensors),
        "extra": _pack(dict(extra or {}), "extra", tensors),
        "random": _pack(random_state, "random", tensors),
    }
    _write_pair(folder, STATE, STATE_RECORD, tensors, record)


@dataclass(frozen=True, kw_only=True)
class TrainingState:
    """What `save_training_state` stored; tensors are on the CPU."""

    model_state: dict[str, Tensor]
    """For `model.load_state_dict`."""
    optimizer_state: dict[str, Any] | None
    """For `optimizer.load_state_dict`."""
    step: int
    """Updates done."""
    stage: int | str
    extra: dict[str, Any]
    extra_tensors: dict[str, Tensor]
    random_state: dict[str, Any]
    """`cpu`: torch's generator state; `cuda`: one state per device."""

    def restore_random(self) -> None:
        """Put torch's CPU and CUDA generators where they were when the state was saved."""
        torch.set_rng_state(self.random_state["cpu"])
        # Resumed on another number of devices, the states that have a device are restored.
        present = torch.cuda.device_count() if torch.cuda.is_available() else 0
        for device, state in enumerate(self.random_state["cuda"][:present]):
            torch.cuda.set_rng_state(state, device)


def has_weights(folder: Path) -> bool:
    """Whether `save_weights` wrote a model there; of a run, look at OUT/model."""
    return (folder / CONFIG).is_file()


def has_training_state(folder: Path) -> bool:
    """Whether `folder` holds a training state to resume from."""
    return (folder / STATE).exists() and bool(list(folder.glob(f"{STATE_RECORD}*")))


def load_training_state(folder: Path) -> TrainingState:
    """Return the training state in `folder`.

    Raises:
        UserError: none there, another schema, or damaged files.
    """
    record, tensors = _read_pair(folder, STATE, STATE_RECORD, kind="training state")
    return TrainingState(
        model_state=_below("model/", tensors),
        optimizer_state=_unpack(record["optimizer"], tensors),
        step=record["step"],
        stage=record["stage"],
        extra=_unpack(record["extra"], tensors),
        extra_tensors=_below("extra_tensors/", tensors),
        random_state=_unpack(record["random"], tensors),
    )


def resume_training(run: Run, model: nn.Module, optimizer: Optimizer) -> TrainingState | None:
    """Put model and optimizer where a resumed run's checkpoint stood, and return it.

    Drops what was logged after it. None: from the start, as of a new run or one without checkpoint.
    """
    if not run.resumed:
        return None
    state = load_training_state(run.checkpoints) if has_training_state(run.checkpoints) else None
    run.truncate_after(state.step if state else 0)
    if state is not None:
        model.load_state_dict(state.model_state)
        assert state.optimizer_state is not None
        optimizer.load_state_dict(state.optimizer_state)
    return state


def find_weights(name: str | Path, *, shipped: Path, command: str) -> str | Path:
    """What a user's name for trained weights means: a folder or Hub id for `load_weights`.

    Args:
        name: a folder of `save_weights`, a run folder, the name of shipped weights, or a Hub id.
        shipped: folder of the checkpoints inside a package, one folder each.
        command: goes on with an unfinished run, such as "memory-adapt train".

    Raises:
        UserError: a file, a run that has not finished, or a name that nothing has.
    """
    path = Path(name)
    if path.is_file():
        raise UserError(f"{name} is a file: give the folder that holds {CONFIG} and the weights")
    if (path / "model").is_dir():
        return path / "model"
    if (path / "metrics.jsonl").is_file():
        raise UserError(
            f"{name}: the training has not finished, there is no model yet: go on with "
            f"{command} ... --resume"
        )
    if path.exists() or "/" in str(name):
        return name
    if not (shipped / path).is_dir():
        names = sorted(p.parent.name for p in shipped.glob(f"*/{CONFIG}"))
        raise UserError(
            f"{name}: neither a folder nor shipped weights ({', '.join(names) or 'none'})"
        )
    return shipped / path


# --- the pair of files ---


def _write_pair(
    folder: Path, weights: str, record_name: str, tensors: Mapping[str, Tensor], record: dict
) -> None:
    if follows():
        return
    content = safetensors.torch.save(dict(tensors))
    record = {**record, "digest": hashlib.sha256(content).hexdigest()}
    # Serialised before anything is touched: a value that JSON lacks leaves the old pair alone.
    text = json.dumps(record, indent=2) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    # A killed save may have left the only record of the present weights under its temporary name.
    _finish_interrupted(folder, weights, record_name)
    for name, data in ((weights, content), (record_name, text.encode())):
        with open(folder / f"{name}{_PENDING}", "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    for name in (weights, record_name):
        os.replace(folder / f"{name}{_PENDING}", folder / name)
    _sync_folder(folder)


def _finish_interrupted(folder: Path, weights: str, record_name: str) -> None:
    pending = folder / f"{record_name}{_PENDING}"
    if not (folder / weights).exists() or not pending.exists():
        return
    digest = hashlib.sha256((folder / weights).read_bytes()).hexdigest()
    try:
        interrupted = json.loads(pending.read_text(encoding="utf-8"))["digest"] == digest
    except (ValueError, KeyError):
        return  # killed while the record was written: the old pair stands
    if interrupted:
        os.replace(pending, folder / record_name)
        _sync_folder(folder)


def _read_pair(
    folder: Path, weights: str, record_name: str, *, kind: str
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the record without its digest's file left unchecked, and the tensors."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such checkpoint folder")
    record: dict[str, Any] = {}
    content = b""
    # The second name: a save was killed between its two renames. The third look: a save finished
    # while we read.
    for name in (record_name, f"{record_name}{_PENDING}", record_name):
        found = _read_record(folder / name, tolerant=name != record_name)
        if found is None:
            continue
        try:
            content = (folder / weights).read_bytes()
        except FileNotFoundError:
            raise UserError(f"{folder / weights}: missing; copy the whole folder") from None
        record = found
        if record["digest"] == hashlib.sha256(content).hexdigest():
            break
    else:
        if not record:
            raise UserError(f"{folder}: no checkpoint here ({record_name} is missing)")
        _check_record(folder / record_name, record, kind)
        raise UserError(
            f"{folder / weights}: truncated, changed or not the file that {record_name} describes "
            "(SHA-256 differs); copy both files again, or use another checkpoint"
        )
    _check_record(folder / record_name, record, kind)
    try:
        return record, safetensors.torch.load(content)
    except SafetensorError as error:
        raise UserError(f"{folder / weights}: not a safetensors file ({error})") from error


def _read_record(path: Path, *, tolerant: bool) -> dict[str, Any] | None:
    """Return the JSON object in `path`; None where there is none, or none yet if `tolerant`."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        if tolerant:
            return None
        raise UserError(f"{path}: not JSON ({error}); copy the checkpoint again") from error
    if not isinstance(record, dict) or not {"schema", "kind", "digest"} <= record.keys():
        if tolerant:
            return None
        raise UserError(f"{path}: not the record of a checkpoint (no schema, kind and digest)")
    return record


def _check_record(path: Path, record: dict[str, Any], kind: str) -> None:
    if record["schema"] != SCHEMA:
        raise UserError(
            f"{path}: checkpoint schema {record['schema']}, this version reads {SCHEMA}; "
            "install the version that wrote it"
        )
    if record["kind"] != kind:
        raise UserError(f"{path}: the checkpoint holds a {record['kind']}, not a {kind}")


def _sync_folder(folder: Path) -> None:
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:
        return  # Windows opens no folders
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# --- tensors and trees ---


def _stored(tensor: Tensor) -> Tensor:
    # Cloned: safetensors refuses tensors that share memory, such as tied weights.
    return tensor.detach().to("cpu", copy=True).contiguous()


def _model_state(model: nn.Module) -> dict[str, Tensor]:
    state = {name.replace("_orig_mod.", ""): v for name, v in model.state_dict().items()}
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"state_dict entry {name} is a {type(value).__name__}, not a tensor")
    return {name: _stored(value) for name, value in state.items()}


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _pack(tree: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """Return `tree` as JSON values; its tensors go to `tensors` under their paths."""
    if isinstance(tree, Tensor):
        tensors[path] = _stored(tree)
        return {"tensor": path}
    if isinstance(tree, Mapping):
        # As pairs: JSON would turn the optimizer's integer keys into strings.
        for key in tree:
            if not isinstance(key, str | int):
                raise TypeError(f"{path}: a key is a {type(key).__name__}, not str or int")
        return {"dict": [[k, _pack(v, f"{path}/{k}", tensors)] for k, v in tree.items()]}
    if isinstance(tree, list | tuple):
        name = "list" if isinstance(tree, list) else "tuple"
        return {name: [_pack(v, f"{path}/{i}", tensors) for i, v in enumerate(tree)]}
    if tree is None or isinstance(tree, bool | int | float | str):
        return tree
    raise TypeError(f"{path}: cannot store a {type(tree).__name__} in a checkpoint")


def _unpack(packed: Any, tensors: Mapping[str, Tensor]) -> Any:
    if not isinstance(packed, dict):
        return packed
    ((form, content),) = packed.items()
    if form == "tensor":
        return tensors[content]
    if form == "dict":
        return {key: _unpack(value, tensors) for key, value in content}
    items = _unpack_all(content, tensors)
    return list(items) if form == "list" else tuple(items)


def _unpack_all(packed: Sequence[Any], tensors: Mapping[str, Tensor]) -> Iterator[Any]:
    return (_unpack(item, tensors) for item in packed)


# --- Hugging Face Hub ---


def _is_repo_id(name: str) -> bool:
    return re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name) is not None


def _download(repo_id: str, revision: str | None) -> Path:
    # Late: most checkpoints are local.
    from huggingface_hub import get_session, hf_hub_download, hf_hub_url

    offline, path, reason = False, "", ""
    try:
        # The client would retry for 20 s where there is no network.
        get_session().head(hf_hub_url(repo_id, CONFIG, revision=revision), timeout=10)
    except Exception as error:  # the HTTP library's or the system's, by version of the client
        offline, reason = True, first_line(error)
    try:
        for name in (CONFIG, WEIGHTS):
            path = hf_hub_download(repo_id, name, revision=revision, local_files_only=offline)
    except Exception as error:  # the client's own besides
        raise UserError(
            f"{repo_id}: no such folder here, and not to be had from the Hugging Face Hub "
            f"({reason or first_line(error)})"
        ) from error
    return Path(path).parent
