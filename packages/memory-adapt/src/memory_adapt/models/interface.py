"""What every online learner is: a network with a state, fed an image and the previous label."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from memory_adapt.config import ModelConfig
from priors_shared.errors import UserError

State = dict[str, Tensor]
"""Everything a learner remembers of a stream: a flat dictionary of tensors, batch first."""


class OnlineClassifier(nn.Module, ABC):
    """Predicts the class of each image of a stream, then learns from the label that arrives later.

    feedback: int64, the label that arrives with an image (that of an earlier one), -1 for null.
    """

    encoder: nn.Module
    must_know_delay: ClassVar[bool] = False
    """whether it takes each label for that of a certain earlier image; others infer the delay"""
    by_slot: ClassVar[frozenset[str]] = frozenset()
    """tensors of a state whose second axis are the label slots (of a layer's, what follows its number): where no
    weight depends on how many there are, so that a state may have more"""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.delay = 1
        """steps until a label arrives"""

    @abstractmethod
    def initial_state(self, batch: int) -> State:
        """The state before the first image, on the parameters' device."""

    def with_slots(self, state: State, slots: int) -> State:
        """The state with so many label slots at least: new ones are empty.

        Padded to twice the slots at once, as classes may come one by one.

        Raises:
            UserError: the learner has weights for each label slot (`by_slot` is empty).
        """
        if not self.by_slot:
            raise UserError(f"ways {slots}: the learner was trained for {self.config.ways}")
        wider = dict(state)
        for name, value in state.items():
            has = value.shape[1] if value.ndim > 1 else 0
            if name.rpartition(".")[2] in self.by_slot and has < slots:
                empty = value.new_zeros(len(value), max(slots, 2 * has) - has, *value.shape[2:])
                wider[name] = torch.cat([value, empty], 1)
        return wider

    def state_for(self, batch: int, ways: int) -> State:
        """The state before the first image of streams of so many classes."""
        state = self.initial_state(batch)
        return state if ways <= self.config.ways else self.with_slots(state, ways)

    def forward(
        self,
        images: Float[Tensor, "time batch channels height width"],
        feedback: Int[Tensor, "time batch"],
        state: State | None = None,
    ) -> tuple[Float[Tensor, "time batch ways"], State]:
        """Logits at every step, and the state after the last. state None: a new stream."""
        return self.forward_features(self.encoder(images), feedback, state)

    def step(
        self,
        image: Float[Tensor, "batch channels height width"],
        feedback: Int[Tensor, " batch"],
        state: State,
    ) -> tuple[Float[Tensor, "batch ways"], State]:
        """One step of the stream: the same numbers as `forward` over the whole."""
        logits, state = self(image.unsqueeze(0), feedback.unsqueeze(0), state)
        return logits.squeeze(0), state

    @abstractmethod
    def forward_features(
        self,
        features: Float[Tensor, "time batch features"],
        feedback: Int[Tensor, "time batch"],
        state: State | None = None,
    ) -> tuple[Float[Tensor, "time batch ways"], State]:
        """What follows the encoder: logits at every step, and the state after the last."""

    @abstractmethod
    def step_flops(self) -> int:
        """FLOPs of one step on one image, with a state: 2 per multiply-add of convolutions and matrix
        products, as a profiler counts them. It is also what a step of adaptation costs.
        """

    def episode_loss(
        self,
        images: Float[Tensor, "time batch channels height width"],
        labels: Int[Tensor, "time batch"],
        feedback: Int[Tensor, "time batch"],
    ) -> tuple[Float[Tensor, ""], Float[Tensor, "time batch ways"]]:
        """Cross-entropy at every step (thesis 2.3.4), averaged over steps and streams, and the logits.

        The thesis sums over the steps; the mean differs by the constant T, which Adam ignores.
        """
        logits, _ = self(images, feedback)
        return F.cross_entropy(logits.flatten(0, 1), labels.flatten()), logits


def encode_feedback(feedback: Int[Tensor, "*shape"], ways: int) -> Float[Tensor, "*shape ways"]:
    """One-hot labels; null (-1) becomes all zeros (thesis 2.3.3, Label Encoding)."""
    slots = torch.arange(ways, device=feedback.device)
    return (feedback.unsqueeze(-1) == slots).to(torch.get_default_dtype())
