"""Plug-in for molfeat, another library of molecular featurizers (the extra `molfeat`).

molfeat finds it by its entry points. `load_registered_plugins()` adds `MiDiTransformer` to
`molfeat.trans.pretrained` and `MiDiCalculator` to `molfeat.calc`; their states are YAML, without pickle.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from molfeat.calc import SerializableCalculator
from molfeat.trans.base import MoleculeTransformer

from molfeat_diffusion.config import SHIPPED_MIDI
from molfeat_diffusion.featurizers.midi import MiDiFeaturizer
from molfeat_diffusion.featurizers.rows import Failure
from priors_shared.errors import UserError


class MiDiCalculator(MiDiFeaturizer, SerializableCalculator):
    """A `MiDiFeaturizer` as a calculator: `MoleculeTransformer(MiDiCalculator("midi-cpu"))`.

    Its state names the checkpoint and holds its digest: other weights under that name are refused.
    """

    failures_: list[Failure]
    """rows of the last `batch_compute` that failed, and notes"""

    def __call__(self, mol: Any) -> np.ndarray:
        """(d,) float32 of a SMILES or RDKit molecule.

        Raises:
            UserError: it has no features.
        """
        (found,) = self.batch_compute([mol])
        if found is None:
            raise UserError(_reason(self.failures_))
        return found

    def batch_compute(
        self, mols: Iterable[Any], n_jobs: int = 1, **_: object
    ) -> list[np.ndarray | None]:
        """(d,) float32 of each; None where a molecule has no features, as molfeat has it."""
        kept = self.get_params()
        self.set_params(errors="nan", n_jobs=self.n_jobs if n_jobs == 1 else n_jobs)
        try:
            values, self.failures_ = self.transform(list(mols), return_failures=True)
        finally:
            self.set_params(**kept)
        failed = {failure.index for failure in self.failures_ if failure.failed}
        return [None if row in failed else value for row, value in enumerate(values)]

    def __len__(self) -> int:
        """d."""
        return self.n_features

    @property
    def columns(self) -> list[str]:
        """midi_0, midi_1, ..."""
        return self.get_feature_names_out().tolist()

    def to_state_dict(self) -> dict[str, Any]:
        """Class, arguments, and the checkpoint's digest; text and numbers alone.

        Raises:
            UserError: the checkpoint is a model, which no text can name.
        """
        state = super().to_state_dict()
        for name, value in state["args"].items():
            if isinstance(value, Path):
                state["args"][name] = str(value)
            elif not isinstance(value, str | int | float | None):
                raise UserError(f"{name}: a state holds its path, not the {type(value).__name__}")
        return state | {"checkpoint_digest": self.checkpoint_digest}

    @classmethod
    def from_state_dict(
        cls, state: dict[str, Any], override_args: dict[str, Any] | None = None
    ) -> MiDiCalculator:
        """What `to_state_dict` wrote.

        Raises:
            UserError: the checkpoint is not the one that the state was written with.
        """
        found: MiDiCalculator = super().from_state_dict(state, override_args)
        if "checkpoint" not in (override_args or {}):
            wanted = state.get("checkpoint_digest", found.checkpoint_digest)
            if found.checkpoint_digest != wanted:
                raise UserError(f"{found.checkpoint}: other weights than those of this state")
        return found


class MiDiTransformer(MoleculeTransformer):
    """Features of a diffusion model, as molfeat's transformers give them.

    Example:
        X = MiDiTransformer("midi-cpu", dtype=np.float32)(["CCO", "c1ccccc1"])  # (2, d)

    With `ignore_errors=True` a molecule without features is None where it stands; the reasons are in
    `featurizer.failures_`.

    Args:
        featurizer: shipped weights, run folder, checkpoint folder or Hub id of a diffusion model; or a
            `MiDiCalculator`.
        n_jobs: processes that make conformers.
        verbose, dtype, parallel_kwargs: see molfeat.
        options: of the calculator, see `MiDiFeaturizer`: layer, timestep, seed, n_samples, pooling, cache, ...
    """

    def __init__(
        self,
        featurizer: str | Path | MiDiCalculator = SHIPPED_MIDI,
        *,
        n_jobs: int = 1,
        verbose: bool = False,
        dtype: str | Callable[..., Any] | None = None,
        parallel_kwargs: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        if not isinstance(featurizer, MiDiCalculator):
            featurizer = MiDiCalculator(featurizer, **options)
        elif options:
            raise UserError(f"give {', '.join(options)} to the MiDiCalculator")
        kept = {"n_jobs": n_jobs, "verbose": verbose, "dtype": dtype}
        # What molfeat writes into a state.
        self._input_args = {"featurizer": featurizer, **kept}
        super().__init__(featurizer, parallel_kwargs=parallel_kwargs, **kept)

    def fit(self, *_: object, **__: object) -> MiDiTransformer:
        """Nothing is learned."""
        return self

    def transform(self, mols: Any, ignore_errors: bool = False, **options: Any) -> Any:
        """Features of each molecule.

        Raises:
            UserError: one has none, unless `ignore_errors`.
        """
        found = super().transform(mols, ignore_errors=True, **options)
        if not ignore_errors and any(failure.failed for failure in self.featurizer.failures_):
            raise UserError(
                f"{_reason(self.featurizer.failures_)}; ignore_errors=True goes on without"
            )
        return found


def _reason(failures: list[Failure]) -> str:
    first = next(failure for failure in failures if failure.failed)
    return f"row {first.index}: {first.stage}: {first.reason}"
