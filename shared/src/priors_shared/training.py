"""What all training loops share: where to go on, when to log, validate and save, and when to stop.

A loop stays a `for` in its own file; this counts its steps:

    loop = TrainingLoop(run, model=net, optimizer=optimizer, steps=1000, checkpoint_every=100)
    net, optimizer = fabric.setup(net, optimizer)  # after: a checkpoint fits what is not wrapped
    for step in loop:
        loss = net(batch_of(step))
        ...
        loop.step(loss)

Killed at any moment and resumed, a run leaves the same bytes, as long as a step's draws depend on (seed, step)
alone. Nothing is written of a training that diverged but what was before.
"""

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from priors_shared.checkpoints import has_training_state, load_training_state, save_training_state
from priors_shared.checkpoints.pair import model_state
from priors_shared.checkpoints.training_state import TrainingState, restore
from priors_shared.checkpoints.weights import load_state
from priors_shared.errors import UserError
from priors_shared.launching import follows
from priors_shared.runs import Run

LARGEST = 1e9
"""What no loss or weight of a training that learns reaches: beyond, it diverged, finite or not."""


class TrainingLoop:
    """The steps of one training, or of one of its stages, from where the run's checkpoint stood.

    In a training on several devices each process has one; the loss is averaged over them, so that all stop at the
    same step.
    """

    def __init__(
        self,
        run: Run,
        *,
        model: nn.Module,
        optimizer: Optimizer,
        steps: int,
        checkpoint_every: int,
        log_every: int = 1,
        validate_every: int | None = None,
        validate: Callable[[], Mapping[str, float]] | None = None,
        best: str | None = None,
        higher: bool = True,
        means: Collection[str] = ("loss",),
        summarise: Callable[[dict[str, float]], Mapping[str, Any]] | None = None,
        modules: Mapping[str, nn.Module] | None = None,
        stage: int = 0,
        steps_before: int = 0,
        title: str = "train",
        advice: str = "lower it",
    ) -> None:
        """Put model, optimizer and `modules` where the run's checkpoint of this stage stood, if it has one.

        Args:
            run: its folder.
            model: what learns, before Fabric wraps or compiles it.
            optimizer: as the model.
            steps: of the whole training or stage: updates, or epochs.
            checkpoint_every: steps between two checkpoints; the last step has one.
            log_every: steps between two lines of metrics; the last step has one, and each validation.
            validate_every: steps between two validations, the last step has one; None: `log_every`.
            validate: metrics to log besides.
            best: the metric of `validate` by which `best_state` is chosen.
            higher: whether more of it is better.
            means: metrics that are averaged over the steps since the last line; others are of the last step.
            summarise: makes of the metrics of a line those to log.
            modules: others whose state a resume needs, such as an average of the weights.
            stage: where a training has several, one loop each.
            steps_before: of the stages before, for the log.
            title: for the progress.
            advice: what to do about the learning rate, or besides, where the training diverges.

        Raises:
            UserError: a cadence below 1; a checkpoint that is damaged or of another training.
        """
        cadences = {"steps": steps, "checkpoint_every": checkpoint_every, "log_every": log_every}
        cadences["validate_every"] = log_every if validate_every is None else validate_every
        for name, value in cadences.items():
            if value < 1:
                raise UserError(f"{name}: {value} is less than 1")
        self.steps, self.done = steps, 0
        self.best: float | None = None
        """The best score in validation; None before the first."""
        self.best_state: dict[str, Tensor] | None = None
        """The model's state of that score, on the CPU."""
        self._run, self._model, self._optimizer = run, model, optimizer
        self._every = cadences
        self._validate, self._best, self._sign = validate, best, 1 if higher else -1
        self._means, self._summarise = means, summarise
        self._modules = dict(modules or {})
        self._stage, self._steps_before, self._title = stage, steps_before, title
        self._advice = advice
        self._window: dict[str, list[Tensor | float]] = {}
        self._losses: list[Tensor | float] = []
        if run.resumed:
            self._resume(run.checkpoints)

    def __iter__(self) -> Iterator[int]:
        """Yield the steps that are left, counted from 0; the body calls `step` once for each."""
        with self._run.progress(self.steps, self._title, start=self.done) as self._progress:
            for step in range(self.done, self.steps):
                yield step
                assert self.done == step + 1, "a loop calls `step` once for each step"

    def step(self, loss: Tensor | float, **metrics: Any) -> None:
        """Count a step; log, validate and save where it is time.

        Args:
            loss: of this process's part of the batch, or the mean of an epoch.
            metrics: more to log, numbers or tensors of one.

        Raises:
            UserError: a loss since the last line or checkpoint, or a weight, is not finite or beyond `LARGEST`.
        """
        self.done += 1
        loss = self._mean_over_processes(loss)
        self._losses.append(loss)
        metrics = {"loss": loss, **metrics}
        for name in self._means:
            value = metrics[name]
            self._window.setdefault(name, []).append(
                value.detach() if isinstance(value, Tensor) else value
            )
        validates = self._validate is not None and self._due("validate_every")
        logs, saves = validates or self._due("log_every"), self._due("checkpoint_every")
        if logs or saves:
            self._require_sane(weights=validates or saves)
        shown: dict[str, float] = {}
        if logs:
            shown = self._log(metrics, validates)
        self._progress.advance(**shown)
        if saves:
            self._save()

    def _require_sane(self, *, weights: bool) -> None:
        # Not at every step: to read a number would make an accelerator wait.
        first = self.done - len(self._losses) + 1
        losses = [float(loss) for loss in self._losses]
        self._losses.clear()
        for step, loss in enumerate(losses, first):
            if not abs(loss) <= LARGEST:  # not: NaN compares false
                self._stop("the loss", loss, step)
        for parameter in self._model.parameters() if weights else ():
            largest = float(parameter.detach().abs().max()) if parameter.numel() else 0.0
            if not largest <= LARGEST:
                self._stop("a weight", largest, self.done)

    def _due(self, cadence: str) -> bool:
        return self.done % self._every[cadence] == 0 or self.done == self.steps

    def _log(self, metrics: dict[str, Any], validates: bool) -> dict[str, float]:
        """Write a line; returns what of it is worth showing."""
        line = metrics | {
            name: sum(map(float, kept)) / len(kept) for name, kept in self._window.items()
        }
        self._window = {}
        line = {name: v.item() if isinstance(v, Tensor) else v for name, v in line.items()}
        shown = {"loss": line["loss"]}
        if self._summarise is not None:
            line = dict(self._summarise(line))
            shown = {name: v for name, v in line.items() if isinstance(v, float)}
        if validates and self._validate is not None:
            found = dict(self._validate())
            line |= found
            shown |= found
            self._keep_best(found)
        self._run.log(self._steps_before + self.done, **line)
        return shown

    def _keep_best(self, found: Mapping[str, float]) -> None:
        score = math.nan if self._best is None else found[self._best]
        if math.isnan(score):
            return
        if self.best is None or self._sign * score > self._sign * self.best:
            self.best, self.best_state = score, model_state(self._model)

    def _save(self) -> None:
        tensors = {f"best/{name}": value for name, value in (self.best_state or {}).items()}
        for name, module in self._modules.items():
            tensors |= {f"{name}/{key}": value for key, value in module.state_dict().items()}
        save_training_state(
            self._run.checkpoints,
            model=self._model,
            optimizer=self._optimizer,
            step=self.done,
            stage=self._stage,
            extra={
                "window": {name: list(map(float, kept)) for name, kept in self._window.items()},
                "best": self.best,
            },
            extra_tensors=tensors,
        )

    def _resume(self, folder: Path) -> None:
        state = load_training_state(folder) if has_training_state(folder) else None
        if state is not None and state.stage != self._stage:
            return  # of the stage before, which this process has finished
        if state is not None:
            self._restore(state, folder)
        self._run.truncate_after(self._steps_before + self.done)

    def _restore(self, state: TrainingState, folder: Path) -> None:
        restore(state, self._model, self._optimizer, folder)
        for name, module in self._modules.items():
            load_state(module, state.tensors_below(f"{name}/"), folder)
        self.done = state.step
        self.best = state.extra.get("best")
        self.best_state = state.tensors_below("best/") or None
        if self.best is not None and self.best_state is None:
            raise UserError(f"{folder}: a checkpoint of another version, which can't be resumed")
        self._window = state.extra.get("window", {})

    def _mean_over_processes(self, loss: Tensor | float) -> Tensor | float:
        distributed = torch.distributed
        if not (distributed.is_available() and distributed.is_initialized()):
            return loss.detach() if isinstance(loss, Tensor) else loss
        device = next(self._model.parameters()).device
        total = torch.as_tensor(loss, device=device, dtype=torch.float32).detach().clone()
        distributed.all_reduce(total)
        return total / distributed.get_world_size()

    def _stop(self, what: str, value: float, step: int) -> None:
        if follows():
            raise SystemExit(2)  # the first process says why
        how = f"{value:.2g}" if math.isfinite(value) else "not finite"
        raise UserError(
            f"learning_rate: {what} is {how} after step {self._steps_before + step} of {self._run.out}: "
            f"{self._advice}"
        )
