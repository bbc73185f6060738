"""What is the same in all loops: resume, progress, metrics, checkpoints, and the end of a run that diverges."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from hyperfields.config import LaunchConfig
from priors_shared import devices
from priors_shared.checkpoints import resume_training, save_training_state
from priors_shared.errors import UserError
from priors_shared.runs import Run

if TYPE_CHECKING:
    from lightning_fabric import Fabric
else:
    Fabric = Any  # it loads torch's compiler, as slow as torch itself


class TrainingLoop:
    """The steps of a training, from where the run's last checkpoint stood.

    Example:
        loop = TrainingLoop(run, model=net, optimizer=adam, steps=100, log_every=10, checkpoint_every=50, name="fit")
        for step in loop:
            ...
            loop.step(loss, lambda mean: {"loss": mean})
    """

    def __init__(
        self,
        run: Run,
        *,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        steps: int,
        log_every: int,
        checkpoint_every: int,
        name: str,
        average: nn.Module | None = None,
    ) -> None:
        """Go on from the run's checkpoint where there is one.

        Args:
            run: its folder.
            model: what learns and is kept.
            optimizer: of it.
            steps: of the whole training.
            log_every: steps between two lines of metrics.
            checkpoint_every: steps between two checkpoints.
            name: for the progress, in a word or two.
            average: kept in checkpoints too: a moving average of the model.
        """
        self.run, self.model, self.optimizer, self.average = run, model, optimizer, average
        self.steps, self.log_every, self.checkpoint_every = steps, log_every, checkpoint_every
        self._name = name
        state = resume_training(run, model, optimizer)
        self.start = state.step if state is not None else 0
        self._losses = list(map(torch.as_tensor, state.extra["losses"] if state else []))
        if state is not None and average is not None:
            average.load_state_dict(state.extra_tensors)

    def __iter__(self) -> Iterator[int]:
        """Each step that is left, counted from 0."""
        with self.run.progress(self.steps, self._name, start=self.start) as self._progress:
            for step in range(self.start, self.steps):
                self._step = step
                yield step

    def step(self, loss: Tensor, metrics: Callable[[float], Mapping[str, Any]]) -> None:
        """Count a step that is done.

        Args:
            loss: of the step.
            metrics: from the mean loss since the last line, what to log; called when a line is due.

        Raises:
            UserError: a loss or a weight that is no finite number; nothing of it is kept.
        """
        # As a tensor: to read its value would make an accelerator wait.
        self._losses.append(
            loss.detach().float().cpu() if loss.device.type == "cpu" else loss.detach()
        )
        done = self._step + 1
        last = done == self.steps
        logs = done % self.log_every == 0 or last
        keeps = done % self.checkpoint_every == 0 or last
        shown: dict[str, Any] = {}
        if logs or keeps:
            self._require_finite(done, weights=keeps)
        if logs:
            shown = dict(metrics(float(torch.stack(self._losses).mean())))
            self._losses.clear()
            self.run.log(done, **shown)
        self._progress.advance(**{k: v for k, v in shown.items() if isinstance(v, int | float)})
        if keeps:
            save_training_state(
                self.run.checkpoints,
                model=self.model,
                optimizer=self.optimizer,
                step=done,
                extra={"losses": [loss.cpu() for loss in self._losses]},
                extra_tensors=self.average.state_dict() if self.average is not None else None,
            )

    def _require_finite(self, done: int, *, weights: bool) -> None:
        finite = torch.stack(self._losses).isfinite()
        if not finite.all():
            done += int((~finite).nonzero()[0]) + 1 - len(finite)
        elif not weights or all(p.isfinite().all() for p in self.model.parameters()):
            return
        raise UserError(
            f"learning_rate: the training diverged, at step {done} its loss or a weight is no finite number: give "
            "a lower one"
        )


def launch_one(launch: LaunchConfig, what: str) -> Fabric:
    """Fabric on one device, for what neither runs on several nor is compiled.

    Raises:
        UserError: more was asked for, or a device that is not to be had.
    """
    devices.set_threads(launch.threads)
    devices.require_one_device(launch.devices, what)
    if launch.compile:
        raise UserError(f"compile: {what} is not compiled; leave the option out")
    return devices.launch(launch.accelerator, 1, launch.precision, compile=False)
