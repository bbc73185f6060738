"""`OnlineLearner`: a trained learner on a stream, one image and one late label at a time."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from memory_adapt.checks import (
    WAYS,
    checked_images,
    checked_labels,
    checked_state,
    whole_labels,
    whole_number,
)
from memory_adapt.config import CHECKPOINT_KIND, ModelConfig, current_names
from memory_adapt.models.interface import OnlineClassifier, State
from memory_adapt.models.opn import PrototypeLearner
from memory_adapt.models.photos import PhotoLearner
from memory_adapt.models.registry import build_model, config_from_json, config_to_json
from priors_shared.checkpoints import find_weights, load_module, load_weights, save_weights
from priors_shared.devices import choose_device
from priors_shared.episodes import NULL_LABEL, delay_labels
from priors_shared.errors import UserError

SHIPPED = Path(__file__).parent / "weights"
_LOG = logging.getLogger(__name__)

Array = Tensor | np.ndarray
"""What comes from a user: checked here, with messages that say what is wrong."""


class OnlineLearner:
    """A trained learner in evaluation mode: deterministic, no gradients.

    Example:
        learner = OnlineLearner.from_pretrained("omniglot-5way-cpu")
        state, previous = learner.reset(ways=5), None
        for image, label in stream:                      # float (channels, height, width) in [0, 1]
            logits, state = learner.step(image, previous, state)
            previous = label                             # the label comes one step late
    """

    def __init__(
        self, model: OnlineClassifier, *, trained: Mapping[str, Any] | None = None
    ) -> None:
        """Take a model as it is. trained: how it was trained, as `training.train` records it."""
        self.model = model.eval()
        self.trained: dict[str, Any] = dict(trained or {})
        self._trained_delay = model.delay

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        device: str | torch.device = "cpu",
        *,
        delay: int | None = None,
        revision: str | None = None,
    ) -> OnlineLearner:
        """The trained learner of that name.

        Args:
            name: shipped weights ("omniglot-5way-cpu"), a folder written by `save_pretrained`, a run
                folder of `memory-adapt train`, or a Hugging Face Hub id `org/name`.
            device: where it runs.
            delay: steps until a label arrives; None: as trained. Learners that compare images with
                labelled ones (`opn`, `cpm`, `apl`) must know it; no weight depends on it. The others have
                learned the delay of their training: another one is warned of.
            revision: branch, tag or commit, for a Hub id.

        Raises:
            UserError: nothing there, a checkpoint of something else, damaged files, or no such device.
        """
        if delay is not None and delay < 1:
            raise UserError(f"delay must be at least 1 step, got {delay}")
        place = choose_device(device)
        source = find_weights(name, shipped=SHIPPED, command="memory-adapt train")
        record, weights = load_weights(source, kind=CHECKPOINT_KIND, revision=revision)
        trained: dict[str, Any] = {}

        def make() -> OnlineClassifier:
            trained.update(current_names(record.get("trained") or {}))
            trained_delay = _delay_of(record)
            return build_model(
                config_from_json(record["config"]), delay=trained_delay if delay is None else delay
            )

        model = load_module(source, make, weights)
        learner = cls(model.to(place), trained=trained)
        learner._trained_delay = _delay_of(record)
        learner._warn_of(model.delay)
        return learner

    def save_pretrained(self, folder: str | Path, **extra: Any) -> None:
        """Write config.json and model.safetensors to `folder`; extra: further keys of config.json."""
        save_weights(
            Path(folder),
            self.model,
            kind=CHECKPOINT_KIND,
            config=config_to_json(self.config),
            extra={"delay": self.model.delay, "trained": self.trained, **extra},
        )

    @property
    def config(self) -> ModelConfig:
        """The model's configuration."""
        return self.model.config

    @property
    def ways(self) -> int:
        """Label slots, as trained; `any_ways` says whether a stream may have more classes."""
        return self.config.ways

    @property
    def any_ways(self) -> bool:
        """Whether no weight depends on the number of classes."""
        return bool(self.model.by_slot)

    @property
    def delay(self) -> int:
        """Steps until a label arrives: as it was trained, or as `from_pretrained` was told."""
        return self.model.delay

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        return self.config.image_channels, self.config.image_size, self.config.image_size

    def reset(self, ways: int | None = None, *, batch: int = 1) -> State:
        """The state before the first image of a stream, or of `batch` streams side by side.

        It is a flat dict of tensors, batch first: save it with safetensors, fork it by keeping it,
        concatenate states to batch them. No call changes a state that it is given.

        ways: classes in the stream, at most those the learner was trained for unless `any_ways` (None: as
            trained). Where they are not known beforehand, begin with 1 and `grow`.
        """
        ways = self._check_ways(ways)
        if not whole_number(batch) or batch < 1:
            raise UserError(f"batch must be a whole number, 1 or more, got {batch}")
        state = _contiguous(self.model.state_for(int(batch), ways))
        return {**state, WAYS: torch.full((int(batch),), ways, device=self.device)}

    def grow(self, state: State, ways: int) -> State:
        """The state of a stream that has so many classes from here on.

        Raises:
            UserError: fewer than it had, or more than the learner can have.
        """
        ways = self._check_ways(ways)
        before = int(state[WAYS][0])
        if ways < before:
            raise UserError(f"ways {ways}: the stream has {before} classes already")
        if self.any_ways:
            state = self.model.with_slots(state, ways)
        return {**state, WAYS: torch.full_like(state[WAYS], ways)}

    def step(
        self, image: Array, previous_label: int | None, state: State
    ) -> tuple[Float[Tensor, " ways"], State]:
        """Predict an image's class, having learnt from the label that arrives with it.

        Args:
            image: float (channels, height, width) in [0, 1]; characters have ink 1.
            previous_label: the class of the previous image, 0 .. ways - 1; None at the first step,
                and whenever no label is known.
            state: of `reset` or of the step before; it is left as it is.

        Returns:
            Logits of the stream's classes, and the next state.

        Raises:
            UserError: an image of another shape, type or range; no such label.
        """
        label = NULL_LABEL if previous_label is None else previous_label
        logits, state = self.step_batch(
            self._checked_images(image).unsqueeze(0), whole_labels([label]), state
        )
        return logits.squeeze(0), state

    def step_batch(
        self, images: Array, previous_labels: Array, state: State
    ) -> tuple[Float[Tensor, "batch ways"], State]:
        """`step` for several streams at once.

        Args:
            images: float (batch, channels, height, width) in [0, 1].
            previous_labels: int (batch,), -1 where no label is known.
            state: of `reset(batch=...)`, or single states concatenated key by key.
        """
        logits, _, state = self.score_batch(images, previous_labels, state)
        return logits, state

    def score_batch(
        self, images: Array, previous_labels: Array, state: State
    ) -> tuple[Float[Tensor, "batch ways"], Float[Tensor, " batch"] | None, State]:
        """`step_batch`, and how surely each image is of none of the classes seen: 0 .. 1.

        The score is that of learners of prototypes (`opn`, `cpm`, those of photos); None from the others.
        """
        images = self._checked_images(images, "batch")
        state = checked_state(state, self._initial, len(images), self.device, self.model.by_slot)
        ways = int(state[WAYS][0])
        labels = checked_labels(previous_labels, images.shape[:1], ways, self.device)
        return self.advance(images, labels, state)

    @torch.no_grad()
    def advance(
        self, images: Tensor, labels: Int[Tensor, " batch"], state: State
    ) -> tuple[Float[Tensor, "batch ways"], Float[Tensor, " batch"] | None, State]:
        """`score_batch` of what was checked before; images may be those of `prepared`."""
        inner = {name: value for name, value in state.items() if name != WAYS}
        unknown = None
        if isinstance(self.model, PrototypeLearner):
            features = self.model.encoder(images.unsqueeze(0))
            logits, score, after = self.model.scores(features, labels.unsqueeze(0), inner)
            logits, unknown = logits.squeeze(0), score.squeeze(0).sigmoid()
        else:
            logits, after = self.model.step(images, labels, inner)
        ways = int(state[WAYS][0])
        return logits[:, :ways], unknown, {**_contiguous(after), WAYS: state[WAYS]}

    def prepared(self, images: Array) -> Tensor:
        """Images as `advance` takes them, checked; of photos what their encoder makes of them, which is smaller."""
        images = self._checked_images(images, "batch")
        if isinstance(self.model, PhotoLearner):
            return self.model.encoder(images)[..., None, None]
        return images

    def predict_stream(
        self, images: Array, labels: Array, delay: int = 1, *, ways: int | None = None
    ) -> Float[Tensor, "time *batch ways"]:
        """Logits of every image of a whole stream: the same numbers as `step` after `step`.

        The prediction for an image knows the labels of those at least `delay` steps before it.

        Args:
            images: float (time, channels, height, width) in [0, 1], or (time, batch, ...).
            labels: int (time,) or (time, batch): each image's own class, -1 where it never arrives.
            delay: steps until a label arrives.
            ways: classes in the stream; None: all that the learner was trained for.

        Raises:
            UserError: as `step`; or a delay that the learner was not told (see `from_pretrained`).
        """
        self.check_delay(delay)
        ways = self._check_ways(ways)
        single = getattr(images, "ndim", 4) == 4  # one stream: no axis of streams
        lead = ("time",) if single else ("time", "batch")
        images = self._checked_images(images, *lead)
        labels = checked_labels(labels, images.shape[: len(lead)], ways, self.device)
        if single:
            images, labels = images.unsqueeze(1), labels.unsqueeze(1)
        logits = self.stream_logits(images, delay_labels(labels, delay), ways)
        return logits.squeeze(1) if single else logits

    @torch.no_grad()
    def stream_logits(
        self,
        images: Float[Tensor, "time batch channels height width"],
        feedback: Int[Tensor, "time batch"],
        ways: int,
    ) -> Float[Tensor, "time batch ways"]:
        """Logits of streams whose feedback is given as it arrives (-1: none); nothing is checked."""
        state = self.model.state_for(images.shape[1], ways)
        return self.model(images, feedback, state)[0][..., :ways]

    def check_delay(self, delay: int) -> None:
        """Raise UserError when labels this late would be taken for other images' labels."""
        if delay < 1:
            raise UserError(f"label delay must be at least 1 step, got {delay}")
        told = self.model.delay
        if self.model.must_know_delay and told != delay:
            raise UserError(
                f"this learner takes a label for that of the image {told} steps before, but labels "
                f"are {delay} late: load it with from_pretrained(..., delay={delay})"
            )
        if told != delay:  # else `from_pretrained` has said so
            self._warn_of(delay)

    def _warn_of(self, delay: int) -> None:
        if not self.model.must_know_delay and delay != self._trained_delay:
            _LOG.warning(
                "this learner was trained with labels %d step(s) late and takes none that are %d late: expect less "
                "than chance, or train it with delay %d",
                *(self._trained_delay, delay, delay),
            )

    def _check_ways(self, ways: Any) -> int:
        ways = self.ways if ways is None else ways
        if self.any_ways:
            if not whole_number(ways) or ways < 1:
                raise UserError(f"ways must be a whole number, 1 or more, got {ways}")
        elif not whole_number(ways) or not 1 <= ways <= self.ways:
            raise UserError(
                f"ways must be a whole number in 1 .. {self.ways} (the label slots that the learner was trained "
                f"with), got {ways}"
            )
        return int(ways)

    def _checked_images(self, images: Any, *lead: str) -> Tensor:
        photos = isinstance(self.model, PhotoLearner)
        return checked_images(images, self.image_shape, self.device, *lead, any_size=photos)

    @cached_property
    def _initial(self) -> State:
        return self.model.initial_state(1)


def _delay_of(record: Mapping[str, Any]) -> int:
    """The label delay that a checkpoint was trained with; version 0.1 kept it in other places."""
    places = (record, record["config"], record.get("trained") or {})
    delay = next((place["delay"] for place in places if "delay" in place), 1)
    if not isinstance(delay, int) or delay < 1:
        raise ValueError(f"delay {delay!r}")
    return delay


def _contiguous(state: State) -> State:
    """The state as files can hold it: layers hand on views and channels-last tensors."""
    return {name: value.contiguous() for name, value in state.items()}
