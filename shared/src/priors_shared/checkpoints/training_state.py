"""All that an exact resume needs: model, optimizer, and what a loop keeps beside them.

Random states are not among it: every draw of a training is made from (seed, name, step).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from priors_shared.checkpoints.pair import (
    model_state,
    read_pair,
    require_finite,
    stored,
    write_pair,
)
from priors_shared.checkpoints.weights import load_state
from priors_shared.errors import UserError, first_line

STATE, STATE_RECORD = "training.safetensors", "training.json"
KIND = "training state"


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
    """Write a training's state to `folder`, as one atomic step.

    The files are training.safetensors and training.json, so that a folder may also hold `save_weights`'.

    Args:
        folder: made where it is missing; a state that it holds is replaced.
        model: see `save_weights`.
        optimizer: its whole `state_dict` is kept; None where a stage has none.
        step: updates done.
        stage: where a training has several.
        extra: schedules, sampler positions, best scores: nested dicts, lists and tuples of JSON
            values and tensors.
        extra_tensors: further tensors by name, such as cached features or a generator's state.

    Raises:
        UserError: the model's weights are not finite; the old state stays.
    """
    tensors = {f"model/{name}": value for name, value in model_state(model).items()}
    require_finite(tensors, folder / STATE)
    for name, value in (extra_tensors or {}).items():
        tensors[f"extra_tensors/{name}"] = stored(value)
    # Fabric and other wrappers hand on state_dict, so the plain optimizer need not be unwrapped.
    optimizer_state = None if optimizer is None else optimizer.state_dict()
    record = {
        "kind": KIND,
        "step": step,
        "stage": stage,
        "optimizer": _pack(optimizer_state, "optimizer", tensors),
        "extra": _pack(dict(extra or {}), "extra", tensors),
    }
    write_pair(folder, STATE, STATE_RECORD, tensors, record)


@dataclass(frozen=True, kw_only=True)
class TrainingState:
    """What `save_training_state` stored; tensors are on the CPU."""

    model_state: dict[str, Tensor]
    """For `load_state`."""
    optimizer_state: dict[str, Any] | None
    """For `optimizer.load_state_dict`."""
    step: int
    """Updates done."""
    stage: int | str
    extra: dict[str, Any]
    extra_tensors: dict[str, Tensor]

    def tensors_below(self, prefix: str) -> dict[str, Tensor]:
        """Those of `extra_tensors` whose names begin with `prefix`, without it."""
        return _below(prefix, self.extra_tensors)


def has_training_state(folder: Path) -> bool:
    """Whether `folder` holds a training state to resume from."""
    return (folder / STATE).exists() and bool(list(folder.glob(f"{STATE_RECORD}*")))


def load_training_state(folder: Path) -> TrainingState:
    """Return the training state in `folder`.

    Raises:
        UserError: none there, another schema, weights that are not finite, or damaged files.
    """
    record, tensors = read_pair(folder, STATE, STATE_RECORD, kind=KIND)
    try:
        state = TrainingState(
            model_state=_below("model/", tensors),
            optimizer_state=_unpack(record["optimizer"], tensors),
            step=int(record["step"]),
            stage=record["stage"],
            extra=dict(_unpack(record["extra"], tensors)),
            extra_tensors=_below("extra_tensors/", tensors),
        )
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise _damaged(folder, error) from error
    require_finite(state.model_state, folder / STATE)
    return state


def restore(
    state: TrainingState, model: nn.Module, optimizer: Optimizer | None, folder: Path
) -> None:
    """Put model and optimizer where a state stood.

    Raises:
        UserError: it does not fit them.
    """
    load_state(model, state.model_state, folder / STATE)
    if optimizer is not None and state.optimizer_state is not None:
        try:
            optimizer.load_state_dict(state.optimizer_state)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise _damaged(folder, error) from error


def _damaged(folder: Path, error: Exception) -> UserError:
    return UserError(
        f"{folder / STATE_RECORD}: not the state of this training ({first_line(error)}); was it written by "
        "another version?"
    )


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _pack(tree: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """Return `tree` as JSON values; its tensors go to `tensors` under their paths."""
    if isinstance(tree, Tensor):
        tensors[path] = stored(tree)
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
    items = [_unpack(item, tensors) for item in content]
    return items if form == "list" else tuple(items)
