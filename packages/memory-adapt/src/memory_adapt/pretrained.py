"""`OnlineLearner`: a trained learner on a stream, one image and one late label at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from memory_adapt.config import CHECKPOINT_KIND, ModelConfig, current_names
from memory_adapt.models.interface import OnlineClassifier, State
from memory_adapt.models.photos import PhotoLearner
from memory_adapt.models.registry import build_model, config_from_json, config_to_json
from priors_shared.checkpoints import CONFIG, find_weights, load_state, load_weights, save_weights
from priors_shared.datasets import ImageDataset
from priors_shared.devices import choose_device
from priors_shared.episodes import NULL_LABEL, OnlineEpisodeSampler, delay_labels
from priors_shared.errors import UserError, first_line

SHIPPED = Path(__file__).parent / "weights"
WAYS = "ways"
"""Key of a state that says how many label slots its stream uses: int64 (batch,)."""

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
                labelled ones (`opn`, `cpm`, `apl`) must know it; no weight depends on it.
            revision: branch, tag or commit, for a Hub id.

        Raises:
            UserError: nothing there, a checkpoint of something else, damaged files, or no such device.
        """
        if delay is not None and delay < 1:
            raise UserError(f"delay must be at least 1 step, got {delay}")
        place = choose_device(device)
        source = find_weights(name, shipped=SHIPPED, command="memory-adapt train")
        record, weights = load_weights(source, kind=CHECKPOINT_KIND, revision=revision)
        try:
            config = config_from_json(record["config"])
            trained = current_names(record.get("trained") or {})
            delay = _delay_of(record) if delay is None else delay
            with torch.device("meta"):  # sizes alone: a damaged configuration may name huge ones
                sizes = {n: v.shape for n, v in build_model(config).state_dict().items()}
        except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise UserError(
                f"{source}: its {CONFIG} makes no learner ({first_line(error)}); was it written by "
                "another version?"
            ) from error
        if sizes != {n: v.shape for n, v in weights.items()}:
            raise UserError(f"{source}: its {CONFIG} and weights make no learner: sizes differ")
        model = build_model(config, delay=delay)
        load_state(model, weights, source)
        return cls(model.to(place), trained=trained)

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
        """Label slots: the most classes of one stream."""
        return self.config.ways

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

        ways: classes in the stream, at most those the learner was trained for (None: all of them).
        """
        ways = self._check_ways(ways)
        if batch < 1:
            raise UserError(f"batch must be at least 1, got {batch}")
        state = _contiguous(self.model.initial_state(batch))
        return {**state, WAYS: torch.full((batch,), ways, device=self.device)}

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
            self._checked_images(image).unsqueeze(0), torch.tensor([label]), state
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
        images = self._checked_images(images, "batch")
        ways = self._ways_of(state, len(images))
        labels = self._checked_labels(previous_labels, images.shape[:1], ways)
        inner = {name: value for name, value in state.items() if name != WAYS}
        with torch.no_grad():
            logits, after = self.model.step(images, labels, inner)
        return logits[:, :ways], {**_contiguous(after), WAYS: state[WAYS]}

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
        labels = self._checked_labels(labels, images.shape[: len(lead)], ways)
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
        return self.model(images, feedback)[0][..., :ways]

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

    def _check_ways(self, ways: Any) -> int:
        ways = self.ways if ways is None else ways
        if not isinstance(ways, int | np.integer) or not 1 <= ways <= self.ways:
            raise UserError(
                f"ways must be a whole number in 1 .. {self.ways} (the label slots that the learner was trained "
                f"with), got {ways}"
            )
        return int(ways)

    def _ways_of(self, state: State, batch: int) -> int:
        if WAYS not in state:
            raise UserError("not a learner's state: it comes from `reset` or from the step before")
        ways = state[WAYS]
        if len(ways) != batch:
            raise UserError(f"the state is of {len(ways)} streams, but {batch} images came")
        if bool((ways != ways[0]).any()):
            raise UserError(f"streams in a batch must have equal ways, got {ways.tolist()}")
        return int(ways[0])

    def _checked_images(self, images: Any, *lead: str) -> Tensor:
        """The images as float32 on the device; `lead` names the axes before those of an image."""
        sizes = ", ".join(map(str, (*lead, *self.image_shape)))
        wanted = f"({', '.join((*lead, 'channels', 'height', 'width'))}) = ({sizes})"
        if not isinstance(images, Tensor | np.ndarray):
            kind = type(images).__name__
            raise UserError(f"image must be a float tensor {wanted}, got a {kind}")
        tensor = torch.as_tensor(images)
        shape = tuple(tensor.shape[-3:])
        any_size = isinstance(self.model, PhotoLearner) and shape[:1] == self.image_shape[:1]
        if tensor.ndim != len(lead) + 3 or not (any_size or shape == self.image_shape):
            raise UserError(f"image must have shape {wanted}, got {tuple(tensor.shape)}")
        if not tensor.is_floating_point():
            raise UserError(
                f"image must be float in [0, 1], got {str(tensor.dtype).removeprefix('torch.')}: "
                "convert it (divide bytes by 255)"
            )
        tensor = tensor.to(self.device, torch.float32)
        if tensor.numel() == 0:
            raise UserError(f"no image: got shape {tuple(tensor.shape)}")
        low, high = tensor.min().item(), tensor.max().item()
        if not (low >= 0 and high <= 1):  # not: NaN compares false
            raise UserError(f"image must lie in [0, 1], got values from {low:.4g} to {high:.4g}")
        return tensor

    def _checked_labels(self, labels: Any, shape: Sequence[int], ways: int) -> Tensor:
        """The labels as int64 on the device."""
        tensor = torch.as_tensor(labels)
        if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
            raise UserError(
                f"labels must be whole numbers, got {str(tensor.dtype).removeprefix('torch.')}"
            )
        if tuple(tensor.shape) != tuple(shape):
            raise UserError(
                f"labels must have shape {tuple(shape)}, one for each image, got "
                f"{tuple(tensor.shape)}"
            )
        low, high = int(tensor.min()), int(tensor.max())
        if low < NULL_LABEL or high >= ways:
            wrong = low if low < NULL_LABEL else high
            raise UserError(
                f"label {wrong} is not in 0 .. {ways - 1} (ways {ways}; None or -1: no label)"
            )
        return tensor.to(self.device, torch.int64)


def stream_sampler(
    learner: OnlineLearner, dataset: ImageDataset, **options: Any
) -> OnlineEpisodeSampler:
    """Streams of a data set for a learner; one of photos gets each image's features, computed once.

    options: of `OnlineEpisodeSampler`.
    """
    if isinstance(learner.model, PhotoLearner):
        from memory_adapt.data.photos import FeatureSampler, encoded

        return FeatureSampler(encoded(dataset, learner.model.encoder.loaded), **options)
    return OnlineEpisodeSampler(dataset, **options)


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
