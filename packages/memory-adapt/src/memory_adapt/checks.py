"""What a user hands to a learner from Python: images, labels and states, refused in words that say what is wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from memory_adapt.models.interface import State
from priors_shared.episodes import NULL_LABEL
from priors_shared.errors import UserError

WAYS = "ways"
"""Key of a state that says how many label slots its stream uses: int64 (batch,)."""


def checked_images(
    images: Any, shape: Sequence[int], device: torch.device, *lead: str, any_size: bool = False
) -> Tensor:
    """The images as float32 on the device.

    shape: channels, height and width of an image; any_size: only the channels count. lead: names of the axes
    before those of an image.
    """
    sizes = ", ".join(map(str, (*lead, *shape)))
    wanted = f"({', '.join((*lead, 'channels', 'height', 'width'))}) = ({sizes})"
    if not isinstance(images, Tensor | np.ndarray):
        kind = type(images).__name__
        raise UserError(f"image must be a float tensor {wanted}, got a {kind}")
    try:
        tensor = torch.as_tensor(images)
    except TypeError:  # of a NumPy array of objects, strings or the like
        raise UserError(f"image must be a float tensor {wanted}, got {images.dtype}") from None
    given = tuple(tensor.shape[-3:])
    fits = given == tuple(shape) or (any_size and given[:1] == tuple(shape[:1]))
    if tensor.ndim != len(lead) + 3 or not fits:
        raise UserError(f"image must have shape {wanted}, got {tuple(tensor.shape)}")
    if not tensor.is_floating_point():
        raise UserError(
            f"image must be float in [0, 1], got {_dtype(tensor)}: convert it (divide bytes by 255)"
        )
    tensor = tensor.to(device, torch.float32)
    if tensor.numel() == 0:
        raise UserError(f"no image: got shape {tuple(tensor.shape)}")
    low, high = tensor.min().item(), tensor.max().item()
    if not (low >= 0 and high <= 1):  # not: NaN compares false
        raise UserError(f"image must lie in [0, 1], got values from {low:.4g} to {high:.4g}")
    return tensor


def whole_labels(labels: Any) -> Tensor:
    """The labels as a tensor of whole numbers."""
    try:
        tensor = torch.as_tensor(labels)
    except (TypeError, ValueError, RuntimeError):  # a word, a list of lists, more than 64 bits
        raise UserError(f"labels must be whole numbers, got {labels!r}") from None
    if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
        raise UserError(f"labels must be whole numbers, got {_dtype(tensor)}")
    return tensor


def checked_labels(labels: Any, shape: Sequence[int], ways: int, device: torch.device) -> Tensor:
    """The labels as int64 on the device."""
    tensor = whole_labels(labels)
    if tuple(tensor.shape) != tuple(shape):
        raise UserError(
            f"labels must have shape {tuple(shape)}, one for each image, got {tuple(tensor.shape)}"
        )
    low, high = int(tensor.min()), int(tensor.max())
    if low < NULL_LABEL or high >= ways:
        wrong = low if low < NULL_LABEL else high
        raise UserError(
            f"label {wrong} is not in 0 .. {ways - 1} (ways {ways}; None or -1: no label)"
        )
    return tensor.to(device, torch.int64)


def checked_state(
    state: Any,
    like: State,
    batch: int,
    device: torch.device,
    by_slot: frozenset[str] = frozenset(),
) -> State:
    """The state, on the device, of `batch` streams.

    like: one of the learner's own, of one stream. by_slot: see `OnlineClassifier`.
    """
    if (
        not isinstance(state, Mapping)
        or WAYS not in state
        or not all(isinstance(value, Tensor) and value.ndim for value in state.values())
    ):
        raise UserError("not a learner's state: it comes from `reset` or from the step before")
    ways = state[WAYS]
    if len(ways) != batch:
        raise UserError(f"the state is of {len(ways)} streams, but {batch} images came")
    if ways.dtype != torch.int64 or bool((ways != ways[0]).any()):
        raise UserError(f"streams in a batch must have equal ways, got {ways.tolist()}")
    own = {**like, WAYS: ways[:1]}
    if odd := own.keys() ^ state.keys():
        where = "it lacks" if next(iter(sorted(odd))) in own else "it has"
        raise UserError(f"a state of another learner: {where} {', '.join(sorted(odd))}")
    slots = 0  # as many in every tensor
    for name, value in state.items():
        expected = (batch, *own[name].shape[1:])
        if name.rpartition(".")[2] in by_slot and value.ndim > 1:
            slots = slots or value.shape[1]
            expected = (batch, slots, *expected[2:])
        if tuple(value.shape) != expected or value.dtype != own[name].dtype:
            raise UserError(
                f"a state of another learner: its {name} is {_dtype(value)} {tuple(value.shape)}, this one's "
                f"{_dtype(own[name])} {expected}"
            )
    return {name: value.to(device) for name, value in state.items()}


def whole_number(value: Any) -> bool:
    """Whether it is an int, of Python or NumPy, and not a truth value."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
