"""A learner at work: classes by name, labels whenever they come, and images asked about without learning.

    classifier = StreamClassifier(OnlineLearner.from_pretrained("photos-cpu"))
    classifier.observe(image, "dog")
    answer, = classifier.predict(images)            # nothing is learned

    classifier.show("img-17", image)                # an answer now; its label comes later, or never,
    classifier.tell("img-17", "cat")                # in any order: learned from now
    classifier.save("pets.safetensors")

An image is learned from when its label is there: `observe` is one step of the stream, whose label the learner gets
with the next image, as in its training. `predict` and `show` ask from the state as it is.
"""

from __future__ import annotations

import json
import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from memory_adapt.checks import WAYS, checked_state
from memory_adapt.evaluation import weights_hash
from memory_adapt.models.interface import State
from memory_adapt.pretrained import Array, OnlineLearner
from priors_shared.episodes import NULL_LABEL
from priors_shared.errors import UserError
from priors_shared.files import write_atomically

KIND = "memory-adapt stream"
FALSE_ALARMS = 0.05
"""Fraction of images of known classes that a calibrated answer may call none of them."""
AT_ONCE = 64


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a learner says of one image."""

    label: Hashable | None
    """the likeliest class; None where none is known yet, or none of them is likely enough (`unknown_above`)"""
    probabilities: dict[Any, float]
    """of each class known so far, in the order in which they came"""
    unknown: float | None
    """how surely it is of none of them, 0 .. 1; None of learners that do not tell"""

    @property
    def nearest(self) -> Hashable | None:
        """The likeliest of the known classes, however unlikely."""
        return max(self.probabilities, key=self.probabilities.__getitem__, default=None)


class StreamClassifier:
    """A learner, its memory of a stream, and the names of the stream's classes."""

    def __init__(self, learner: OnlineLearner, *, unknown_above: float | None = None) -> None:
        """Begin without memory.

        unknown_above: answer "none of the known classes" where that score is higher; None: never. See
            `calibrated_threshold`.
        """
        if unknown_above is not None and not 0 <= unknown_above <= 1:
            raise UserError(f"unknown_above must be in 0 .. 1, got {unknown_above}")
        self.learner = learner
        self.unknown_above = unknown_above
        self.classes: list[Hashable] = []
        self._state: State = learner.reset(1 if learner.any_ways else None)
        self._due = [
            NULL_LABEL
        ] * learner.delay  # labels that the next steps bring, the next one first
        self._waiting: dict[Hashable, Tensor] = {}
        self._answered: set[Hashable] = set()

    @property
    def waiting(self) -> list[Hashable]:
        """Ids of images whose label has not come, oldest first."""
        return list(self._waiting)

    def observe(self, image: Array, label: Hashable) -> None:
        """Learn that an image is of a class, new or known.

        Raises:
            UserError: no such image; a new class where all label slots are taken.
        """
        self._learn(self._prepared(image), label)

    def predict(self, images: Array) -> list[Answer]:
        """Answers for float images (batch, channels, height, width) in [0, 1]; nothing changes."""
        return self._answers(self.learner.prepared(images))

    def show(self, id: Hashable, image: Array) -> Answer:
        """The answer for an image whose label may come later under this id.

        Raises:
            UserError: the id was given to another image before.
        """
        if id in self._waiting or id in self._answered:
            raise UserError(f"id {id!r}: there is an image of this id already")
        prepared = self._prepared(image)
        (answer,) = self._answers(prepared)
        self._waiting[id] = prepared
        return answer

    def tell(self, id: Hashable, label: Hashable) -> None:
        """Learn the class of the image of that id.

        Raises:
            UserError: no image of this id was shown, or it has its label; or as `observe`.
        """
        if id in self._answered:
            raise UserError(f"id {id!r}: it has its label already")
        if id not in self._waiting:
            raise UserError(f"id {id!r}: no image of this id was shown")
        self._learn(self._waiting[id], label)
        del self._waiting[id]
        self._answered.add(id)

    def _prepared(self, image: Array) -> Tensor:
        # What is no array is refused there, in words.
        return self.learner.prepared(image[None] if hasattr(image, "ndim") else image)

    def _learn(self, prepared: Tensor, label: Hashable) -> None:
        slot = self._slot_of(label)
        arrived = torch.tensor([self._due[0]], device=self.learner.device)
        _, _, self._state = self.learner.advance(prepared, arrived, self._state)
        self._due = [*self._due[1:], slot]

    def _slot_of(self, label: Hashable) -> int:
        if label is None:
            raise UserError("label None: name a class")
        if label in self.classes:
            return self.classes.index(label)
        slot = len(self.classes)
        if slot >= int(self._state[WAYS][0]):
            if not self.learner.any_ways:
                taken = ", ".join(map(str, self.classes))
                raise UserError(
                    f"label {label!r}: the learner's {slot} label slots are taken ({taken}); opn, cpm and learners "
                    "of photos take any number of classes"
                )
            self._state = self.learner.grow(self._state, slot + 1)
        self.classes.append(label)
        return slot

    def _answers(self, prepared: Tensor) -> list[Answer]:
        answers: list[Answer] = []
        for part in prepared.split(AT_ONCE):
            state = {n: v.expand(len(part), *v.shape[1:]) for n, v in self._state.items()}
            arrived = torch.full((len(part),), self._due[0], device=self.learner.device)
            logits, unknown, _ = self.learner.advance(part, arrived, state)
            known = logits[:, : len(self.classes)].double().softmax(-1).tolist()
            scores = [None] * len(part) if unknown is None else unknown.tolist()
            answers += map(self._answer, known, scores)
        return answers

    def _answer(self, probabilities: list[float], unknown: float | None) -> Answer:
        answer = Answer(
            label=None,
            probabilities=dict(zip(self.classes, probabilities, strict=True)),
            unknown=unknown,
        )
        threshold = math.inf if self.unknown_above is None else self.unknown_above
        if unknown is not None and unknown > threshold:
            return answer
        return Answer(**{**vars(answer), "label": answer.nearest})

    def save(self, path: str | Path, **about: Any) -> None:
        """Write memory, classes and waiting images to one safetensors file.

        about: more to keep, JSON values. Raises UserError where a class or id is neither text nor a number.
        """
        names = {
            "classes": self.classes,
            "waiting": list(self._waiting),
            "answered": sorted(self._answered, key=repr),
        }
        for kind, values in names.items():
            if odd := [v for v in values if not isinstance(v, str | int | float)]:
                raise UserError(
                    f"{kind}: {odd[0]!r} is neither text nor a number: no file holds it"
                )
        record = {
            **about,
            **names,
            "kind": KIND,
            "due": self._due,
            "unknown_above": self.unknown_above,
            "weights": weights_hash(self.learner.model),
        }
        tensors = {f"state/{name}": value.contiguous() for name, value in self._state.items()}
        tensors |= {f"waiting/{i}": v for i, v in enumerate(self._waiting.values())}
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(Path(path), save(tensors, {"stream": json.dumps(record)}))

    @classmethod
    def load(cls, path: str | Path, learner: OnlineLearner) -> StreamClassifier:
        """What `save` wrote.

        Raises:
            UserError: no such file, another kind of file, damage, or a state of another learner.
        """
        record, tensors = _read(Path(path))
        if record["weights"] != weights_hash(learner.model):
            raise UserError(f"{path}: a state of another learner, with other weights")
        if len(record["due"]) != learner.delay:
            raise UserError(
                f"{path}: a state of labels {len(record['due'])} step(s) late; the learner's are {learner.delay} late"
            )
        classifier = cls(learner, unknown_above=record["unknown_above"])
        state = {n.removeprefix("state/"): v for n, v in tensors.items() if n.startswith("state/")}
        try:
            classifier._state = checked_state(
                state, learner.reset(), 1, learner.device, learner.model.by_slot
            )
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
        classifier.classes, classifier._due = record["classes"], record["due"]
        classifier._answered = set(record["answered"])
        for i, id in enumerate(record["waiting"]):
            classifier._waiting[id] = tensors[f"waiting/{i}"].to(learner.device)
        return classifier


def delay_of(path: str | Path) -> int:
    """The delay of labels that a saved stream's learner must have. Raises UserError as `StreamClassifier.load`."""
    return len(_read(Path(path))[0]["due"])


def calibrated_threshold(scores: Sequence[float]) -> float | None:
    """A value for `unknown_above`: at most `FALSE_ALARMS` of images of known classes are expected above it.

    scores: `unknown` of images whose class was known when they were asked about. The quantile of split conformal
    prediction, valid where later images are like these. None: too few of them to say, fewer than 19.
    """
    rank = math.ceil((len(scores) + 1) * (1 - FALSE_ALARMS))
    return sorted(scores)[rank - 1] if rank <= len(scores) else None


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    no_state = UserError(f"{path}: not a state that `adapt --save-state` or `save` wrote")
    if not path.is_file():
        raise UserError(f"state {path}: no such file; `memory-adapt adapt --save-state` writes it")
    try:
        with safe_open(path, "pt") as file:
            record = json.loads((file.metadata() or {}).get("stream", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, ValueError):
        raise no_state from None
    needed = {"classes", "waiting", "answered", "due", "unknown_above", "weights"}
    if not isinstance(record, dict) or record.get("kind") != KIND:
        raise no_state
    if not needed <= record.keys():
        raise no_state
    if any(f"waiting/{i}" not in tensors for i in range(len(record["waiting"]))):
        raise no_state
    return record, tensors
