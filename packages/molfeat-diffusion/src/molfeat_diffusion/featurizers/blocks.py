"""Blocks of features side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin

from molfeat_diffusion.config import SHIPPED_MIDI, SHIPPED_SMILES
from molfeat_diffusion.featurizers.descriptors import KINDS, DescriptorFeaturizer
from molfeat_diffusion.featurizers.midi import MiDiFeaturizer
from molfeat_diffusion.featurizers.rows import Failure, molecule_sources
from molfeat_diffusion.featurizers.smiles import SmilesFeaturizer
from priors_shared.errors import UserError

CHEMBERTA = "DeepChem/ChemBERTa-77M-MLM"

BLOCKS = ("midi", "smiles", "chemberta", *KINDS)


class FeatureBlocks(TransformerMixin, BaseEstimator):
    """Features of several kinds side by side.

    Args:
        features: names joined by +, of midi, smiles, chemberta, ecfp4, rdkit2d, usrcat.
        checkpoint: of the diffusion model, for midi.
        layer, timestep: of it.
        language: language model, for smiles.
        seed: of noise and conformers.
        n_jobs: processes that make conformers, for midi.
        cache: file that keeps midi's features.
    """

    def __init__(
        self,
        features: str = "midi+smiles",
        *,
        checkpoint: str = SHIPPED_MIDI,
        layer: int | None = None,
        timestep: int = 50,
        language: str = SHIPPED_SMILES,
        seed: int = 0,
        n_jobs: int = 1,
        cache: str | None = None,
    ) -> None:
        self.features = features
        self.checkpoint = checkpoint
        self.layer = layer
        self.timestep = timestep
        self.language = language
        self.seed = seed
        self.n_jobs = n_jobs
        self.cache = cache

    def fit(self, X: Any = None, y: Any = None) -> FeatureBlocks:
        """Nothing is learned: load the models."""
        self.blocks()
        return self

    def __sklearn_is_fitted__(self) -> bool:
        """It always is."""
        return True

    def blocks(self) -> dict[str, Any]:
        """The featurizers, by name."""
        if getattr(self, "_built_for", None) != self.get_params():
            self._blocks = {name: self._block(name) for name in self.features.split("+")}
            self._built_for = self.get_params()
        return self._blocks

    def _block(self, name: str) -> Any:
        if name == "midi":
            return MiDiFeaturizer(
                self.checkpoint,
                layer=self.layer,
                timestep=self.timestep,
                seed=self.seed,
                errors="nan",
                n_jobs=self.n_jobs,
                cache=self.cache,
            ).fit()
        if name in ("smiles", "chemberta"):
            model = self.language if name == "smiles" else CHEMBERTA
            return SmilesFeaturizer(model, errors="nan").fit()
        if name in KINDS:
            return DescriptorFeaturizer(name, errors="nan", seed=self.seed)  # type: ignore[arg-type]
        raise UserError(f"features {name!r}: choose of {', '.join(BLOCKS)}, joined by +")

    @property
    def widths(self) -> list[int]:
        """Number of features of each block."""
        return [len(block.get_feature_names_out()) for block in self.blocks().values()]

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """The blocks' names, one after the other."""
        return np.concatenate([b.get_feature_names_out() for b in self.blocks().values()])

    def transform(
        self,
        X: Any,
        *,
        ids: Sequence[Any] | None = None,
        first_row: int = 0,
        return_failures: bool = False,
    ) -> Any:
        """(N, d) float32; a row that fails in one block is NaN in all, and in the list of `Failure`."""
        sources = list(molecule_sources(X))
        parts: list[np.ndarray] = []
        report: dict[tuple[int, str], Failure] = {}
        for block in self.blocks().values():
            values, failures = block.transform(
                sources, ids=ids, first_row=first_row, return_failures=True
            )
            parts.append(values)
            report |= {(f.index, f.stage): f for f in reversed(failures)}
        result = np.concatenate(parts, axis=1)
        result[~np.isfinite(result).all(1)] = np.nan
        ordered = sorted(report.values(), key=lambda f: (f.index, f.failed))
        return (result, ordered) if return_failures else result
