"""The field's usual descriptors by RDKit, with the featurizers' interface: what ours are measured against."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from rdkit import Chem, rdBase
from rdkit.Chem import Descriptors, rdFingerprintGenerator, rdMolDescriptors
from sklearn.base import BaseEstimator, TransformerMixin

from molfeat_diffusion.config import ConformerConfig
from molfeat_diffusion.data.conformers import embed, parse
from molfeat_diffusion.data.molecules import MoleculeError
from molfeat_diffusion.featurizers.rows import Failure, molecule_sources, row_names
from priors_shared.errors import UserError

Kind = Literal["ecfp4", "rdkit2d", "usrcat"]
KINDS = ("ecfp4", "rdkit2d", "usrcat")
_BITS = 2048
_LARGEST = 1e6  # some RDKit descriptors overflow for some molecules


class DescriptorFeaturizer(TransformerMixin, BaseEstimator):
    """A scikit-learn transformer from molecules to descriptors.

    Args:
        kind: ecfp4 (2048 bits), rdkit2d (all of RDKit's 2D descriptors), usrcat (60 numbers of shape and
            atom types; needs a structure, which is made where there is none).
        errors: what a molecule without features means: "raise" an error, or a row of "nan".
        seed: of conformers.
    """

    def __init__(
        self, kind: Kind = "ecfp4", *, errors: Literal["raise", "nan"] = "raise", seed: int = 0
    ) -> None:
        self.kind = kind
        self.errors = errors
        self.seed = seed

    def fit(self, X: Any = None, y: Any = None) -> DescriptorFeaturizer:
        """Nothing is learned."""
        if self.kind not in KINDS:
            raise UserError(f"kind {self.kind!r}: {', '.join(KINDS)}")
        return self

    def __sklearn_is_fitted__(self) -> bool:
        """It always is."""
        return True

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """KIND_0, KIND_1, ..., or RDKit's names."""
        if self.kind == "rdkit2d":
            names = [name for name, _ in Descriptors.descList]
        else:
            names = [f"{self.kind}_{i}" for i in range(_BITS if self.kind == "ecfp4" else 60)]
        return np.array(names, dtype=object)

    def transform(
        self,
        X: Any,
        *,
        ids: Sequence[Any] | None = None,
        first_row: int = 0,
        return_failures: bool = False,
    ) -> Any:
        """(N, d) float32; see `MiDiFeaturizer.transform`."""
        self.fit()
        sources = list(molecule_sources(X))
        names = row_names(ids, len(sources))
        width = len(self.get_feature_names_out())
        result = np.full((len(sources), width), np.nan, dtype=np.float32)
        report: list[Failure] = []
        for row, source in enumerate(sources):
            try:
                parsed = parse(source, None)
                mol = parsed.mol
                if self.kind == "usrcat":
                    mol = embed(parsed, ConformerConfig(), self.seed)
                result[row] = self._described(mol)
            except MoleculeError as error:
                report.append(Failure(row + first_row, names[row], error.stage, error.reason))
        if report and self.errors == "raise":
            first = report[0]
            raise UserError(f"row {first.index} (id {first.id}): {first.stage}: {first.reason}")
        return (result, report) if return_failures else result

    def _described(self, mol: Chem.Mol) -> np.ndarray:
        with rdBase.BlockLogs():
            flat = Chem.RemoveHs(mol)
            if self.kind == "ecfp4":
                return _MORGAN.GetFingerprintAsNumPy(flat).astype(np.float32)
            if self.kind == "usrcat":
                if mol.GetNumAtoms() < 3:
                    raise MoleculeError("size", "USRCAT needs 3 atoms or more")
                return np.array(rdMolDescriptors.GetUSRCAT(mol), dtype=np.float32)
            values = np.array([function(flat) for _, function in Descriptors.descList], dtype=float)
        # A descriptor that RDKit cannot give (partial charges of rare elements) says nothing: 0.
        return np.nan_to_num(values.clip(-_LARGEST, _LARGEST), nan=0.0).astype(np.float32)


_MORGAN = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=_BITS)


def fingerprint(mol: Chem.Mol) -> Any:
    """RDKit's bit vector of ECFP4."""
    return _MORGAN.GetFingerprint(mol)
