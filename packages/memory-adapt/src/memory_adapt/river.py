"""A learner in River, the library of online machine learning: `learn_one`, `predict_one`, `predict_proba_one`."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from memory_adapt.pretrained import OnlineLearner
from memory_adapt.stream import StreamClassifier
from priors_shared.datasets.base import as_float
from priors_shared.datasets.image_folder import load_unlabelled
from priors_shared.errors import UserError

try:
    from river import base
except ImportError as error:
    raise UserError("River is not installed: pip install 'memory-adapt[river]'") from error


class RiverClassifier(base.Classifier):
    """A trained learner: each x holds an image, each y is its class, new or known.

    Parameters
    ----------
    checkpoint
        Name of shipped weights, run folder, checkpoint folder, or Hugging Face Hub id.
    image
        The feature that is the image: a file's path, a PIL image, or a float array (channels, height, width) in
        [0, 1]. Other features are left alone.
    device
        Where it runs.

    Examples
    --------
    >>> from river import metrics
    >>> model, accuracy = RiverClassifier("photos-cpu"), metrics.Accuracy()
    >>> for path, label in []:  # your stream
    ...     accuracy.update(label, model.predict_one({"image": path}))
    ...     model.learn_one({"image": path}, label)
    """

    def __init__(
        self, checkpoint: str = "photos-cpu", image: str = "image", device: str = "cpu"
    ) -> None:
        self.checkpoint = checkpoint
        self.image = image
        self.device = device
        self._stream: StreamClassifier | None = None

    def learn_one(self, x: dict[Any, Any], y: Any) -> None:
        """Learn that x shows a y.

        Raises:
            UserError: no image, or none that the learner takes; a new class where all its label slots are taken.
        """
        stream = self._begun()
        stream.observe(self._image(x, stream.learner), y)

    def predict_proba_one(self, x: dict[Any, Any], **kwargs: Any) -> dict[Any, float]:
        """Probability of each class known so far; nothing is learned."""
        stream = self._begun()
        (answer,) = stream.predict(self._image(x, stream.learner)[None])
        return answer.probabilities

    @property
    def _multiclass(self) -> bool:
        return True

    def _unit_test_skips(self) -> set[str]:
        # They take the image away, or replace it by nothing: that is an error here.
        return {"check_emerging_features", "check_disappearing_features"}

    def _begun(self) -> StreamClassifier:
        if self._stream is None:
            self._stream = StreamClassifier(_learner(self.checkpoint, self.device))
        return self._stream

    def _image(self, x: dict[Any, Any], learner: OnlineLearner) -> Tensor:
        if self.image not in x:
            raise UserError(f"x has no feature {self.image!r}: it holds the image")
        value, channels = x[self.image], learner.config.image_channels
        if isinstance(value, str | Path):
            size = learner.config.image_size
            found = load_unlabelled(value, image_size=size, channels=channels, invert="auto")
            return as_float(found.images[0])
        if hasattr(value, "convert"):  # of PIL
            pixels = np.array(value.convert("RGB" if channels == 3 else "L"))
            return as_float(torch.from_numpy(pixels.reshape(*pixels.shape[:2], channels))).permute(
                2, 0, 1
            )
        return torch.as_tensor(value)

    def __getstate__(self) -> dict[str, Any]:
        """The memory without the network, which the checkpoint's name stands for."""
        kept = dict(vars(self))
        stream = kept.pop("_stream")
        memory = (
            None if stream is None else {k: v for k, v in vars(stream).items() if k != "learner"}
        )
        return {**kept, "memory": memory}

    def __setstate__(self, kept: dict[str, Any]) -> None:
        memory = kept.pop("memory")
        vars(self).update(kept, _stream=None)
        if memory is not None:
            vars(self._begun()).update(memory)


@lru_cache(maxsize=8)
def _learner(checkpoint: str, device: str) -> OnlineLearner:
    """Shared by all models of a checkpoint: nothing changes it."""
    return OnlineLearner.from_pretrained(checkpoint, device)
