"""A trained model: `model.safetensors` and the `config.json` that builds it anew."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from priors_shared.checkpoints.names import locate
from priors_shared.checkpoints.pair import (
    CONFIG,
    WEIGHTS,
    model_state,
    read_pair,
    require_finite,
    write_pair,
)
from priors_shared.errors import UserError, first_line

_Module = TypeVar("_Module", bound=nn.Module)


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

    Raises:
        UserError: weights that are not finite; the old checkpoint stays.
    """
    reserved = {"schema", "kind", "config", "digest", "record_digest"} & set(extra or {})
    if reserved:
        raise ValueError(f"extra may not hold {', '.join(sorted(reserved))}")
    state = model_state(model)
    if half:
        state = {name: v.half() if v.is_floating_point() else v for name, v in state.items()}
    require_finite(state, folder / WEIGHTS)
    record = {"kind": kind, "config": dict(config), **(extra or {})}
    write_pair(folder, WEIGHTS, CONFIG, state, record)


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
        UserError: nothing there, another kind or schema, weights that are not finite, or files that are damaged
            or do not belong together.
    """
    folder = locate(folder_or_repo_id, revision)
    record, tensors = read_pair(folder, WEIGHTS, CONFIG, kind=kind)
    if not isinstance(record.get("config"), dict):
        raise UserError(f"{folder / CONFIG}: its config is not an object")
    require_finite(tensors, folder / WEIGHTS)
    return record, tensors


def load_state(module: nn.Module, tensors: Mapping[str, Tensor], path: str | Path) -> None:
    """Put weights into the module that they were saved from.

    Args:
        module: built from the checkpoint's config.
        tensors: of `load_weights` or a `TrainingState`.
        path: where they come from, for the message.

    Raises:
        UserError: they do not fit; names the first that does not.
    """
    _require_fit(module.state_dict(), tensors, path)
    module.load_state_dict(dict(tensors))


def load_module(
    source: str | Path, make: Callable[[], _Module], tensors: Mapping[str, Tensor]
) -> _Module:
    """The module that a checkpoint's record describes, with its weights, in evaluation mode on the CPU.

    Nothing is drawn from torch's generator.

    Args:
        source: of the checkpoint, for errors.
        make: builds the module from the record.
        tensors: of `load_weights`.

    Raises:
        UserError: the record describes none, or the weights are another's.
    """
    try:
        # On no device first: sizes that a damaged record claims take no memory.
        with torch.device("meta"):
            wanted = make().state_dict()
    except UserError:
        raise
    except (
        AttributeError,
        LookupError,
        TypeError,
        ValueError,
        ArithmeticError,
        RuntimeError,
    ) as error:
        raise UserError(
            f"{source}: its {CONFIG} describes no model ({first_line(error)}); was it written by another version?"
        ) from error
    _require_fit(wanted, tensors, source)
    with torch.random.fork_rng(devices=[]):
        module = make()
    module.load_state_dict(dict(tensors))
    return module.eval()


def _require_fit(
    wanted: Mapping[str, Tensor], tensors: Mapping[str, Tensor], path: str | Path
) -> None:
    for name in [*wanted, *(n for n in tensors if n not in wanted)]:
        if name not in tensors:
            detail = f"{name} is missing"
        elif name not in wanted:
            detail = f"the model has no {name}"
        elif tensors[name].shape != wanted[name].shape:
            shapes = (tuple(tensors[name].shape), tuple(wanted[name].shape))
            detail = f"{name} has shape {shapes[0]}, the model's {shapes[1]}"
        elif tensors[name].is_floating_point() != wanted[name].is_floating_point():
            detail = f"{name} holds {tensors[name].dtype}, the model's {wanted[name].dtype}"
        else:
            continue
        raise UserError(
            f"{path}: the weights do not fit the model of its {CONFIG} ({detail}); was it written by another "
            "version?"
        )
