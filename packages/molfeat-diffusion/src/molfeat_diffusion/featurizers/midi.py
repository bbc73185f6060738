"""MiDiFeaturizer: molecules to the diffusion model's activations (thesis 5.3, Fig. 5.1).

Conformer -> corrupted at a fixed low noise level t -> denoiser up to one layer -> that layer's features of
the atoms, F in R^(n x d) -> pooled over the atoms to R^d (5.3.3: the mean).

The noise depends on the molecule and `seed` alone: it is drawn for the atoms in canonical order, in the
molecule's own axes. So features do not depend on batch, order of rows or atoms, rotation, or number of
processes (to float32's rounding; for the same rows in the same order, to the bit). Mirror images get equal
features, as the network is equivariant to reflections.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from joblib import Parallel, delayed
from sklearn.base import BaseEstimator, TransformerMixin

from molfeat_diffusion.config import ConformerConfig
from molfeat_diffusion.data.conformers import Parsed, stable_seed
from molfeat_diffusion.data.molecules import (
    MoleculeError,
    Vocabulary,
    collate,
    has_structure,
)
from molfeat_diffusion.featurizers.cache import FeatureCache, digest_of
from molfeat_diffusion.featurizers.preparation import Prepared, buckets, prepare
from molfeat_diffusion.featurizers.rows import (
    Failure,
    molecule_sources,
    parse_rows,
    refuse_failures,
    row_names,
)
from molfeat_diffusion.models.diffusion import MiDi
from molfeat_diffusion.models.noise import Randomness
from molfeat_diffusion.pretrained import load_model
from priors_shared.devices import choose_device
from priors_shared.errors import UserError


class MiDiFeaturizer(TransformerMixin, BaseEstimator):
    """A scikit-learn transformer from molecules to the features of a diffusion model.

    Example:
        X = MiDiFeaturizer("runs/qm9").transform(["CCO", "c1ccccc1"])  # (2, d) float32

    Args:
        checkpoint: run folder, checkpoint folder or Hub id of a diffusion model; or a `MiDi`.
        layer: features are what leaves this layer, 1 .. number of layers; None: the middle one.
        timestep: noise level t in 0 .. T; 0: no noise at all.
        seed: of the noise and of conformers.
        n_samples: average over as many draws of the noise.
        pooling: over atoms: mean (5.3.3), sum or max.
        errors: what a molecule without features means: "raise" an error, a row of "nan", or "skip" the row.
        max_atoms: larger molecules fail (atoms as the network sees them).
        fragment: of a salt: its "largest" fragment, which is noted, or "all" of it.
        attempts, timeout, optimize: see `ConformerConfig`; they do not touch molecules that have a structure.
        n_jobs: processes that make conformers.
        device: where the network runs.
        cache: a file (SQLite) that keeps features between calls; None: no cache.
    """

    def __init__(
        self,
        checkpoint: str | Path | MiDi,
        *,
        layer: int | None = None,
        timestep: int = 50,
        seed: int = 0,
        n_samples: int = 1,
        pooling: Literal["mean", "sum", "max"] = "mean",
        errors: Literal["raise", "nan", "skip"] = "raise",
        max_atoms: int = 200,
        fragment: Literal["largest", "all"] = "largest",
        attempts: int = 10,
        timeout: int = 30,
        optimize: bool = True,
        n_jobs: int = 1,
        device: str = "cpu",
        cache: str | Path | None = None,
    ) -> None:
        self.checkpoint = checkpoint
        self.layer = layer
        self.timestep = timestep
        self.seed = seed
        self.n_samples = n_samples
        self.pooling = pooling
        self.errors = errors
        self.max_atoms = max_atoms
        self.fragment = fragment
        self.attempts = attempts
        self.timeout = timeout
        self.optimize = optimize
        self.n_jobs = n_jobs
        self.device = device
        self.cache = cache

    @classmethod
    def from_pretrained(cls, checkpoint: str | Path, **options: Any) -> MiDiFeaturizer:
        """The featurizer of a checkpoint, loaded at once.

        Raises:
            UserError: no such checkpoint, or options that it cannot have.
        """
        featurizer = cls(checkpoint, **options)
        featurizer._loaded()
        return featurizer

    def fit(self, X: Any = None, y: Any = None) -> MiDiFeaturizer:
        """Nothing is learned: check the options and load the model."""
        self._loaded()
        return self

    def __sklearn_is_fitted__(self) -> bool:
        """It always is."""
        return True

    def __getstate__(self) -> dict[str, Any]:
        """Leave the loaded model behind: it is loaded again where it is needed."""
        return {k: v for k, v in super().__getstate__().items() if k != "_model"}

    @property
    def n_features(self) -> int:
        """d."""
        return self._loaded().config.network.width_atoms

    @property
    def checkpoint_digest(self) -> str:
        """SHA-256 of the model's weights."""
        self._loaded()
        return self._digest

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """midi_0, midi_1, ..."""
        return np.array([f"midi_{i}" for i in range(self.n_features)], dtype=object)

    def transform(
        self,
        X: Any,
        *,
        ids: Sequence[Any] | None = None,
        first_row: int = 0,
        return_failures: bool = False,
        return_atoms: bool = False,
    ) -> Any:
        """Features, row i for molecule i.

        Args:
            X: SMILES and RDKit molecules in a sequence, array, Series or DataFrame (its column smiles, or its
                only one), or the path of an .sdf file.
            ids: of the rows, for the failure table; None: their positions.
            first_row: position of the first row in a larger input, for the failure table.
            return_failures: also return the list of `Failure`: rows that failed, and notes.
            return_atoms: instead of pooled rows, a list of (atoms, d) arrays; None where a row failed.

        Returns:
            (N, d) float32; with errors="skip", rows that failed are missing.

        Raises:
            UserError: with errors="raise", for the first molecule that fails; wrong options or input.
        """
        model = self._loaded()
        sources = list(molecule_sources(X))
        names = row_names(ids, len(sources))
        rows: list[Any] = [None] * len(sources)
        report: list[Failure] = []
        path = None if return_atoms else self.cache
        with FeatureCache(path, self._cache_prefix(), width=self.n_features) as cache:
            wanted = self._parsed(sources, names, model.vocabulary, report)
            todo: dict[str, list[int]] = {}
            for index, (_, key) in wanted.items():
                rows[index] = cache.get(key)
                if rows[index] is None:
                    todo.setdefault(key, []).append(index)
            firsts = [indices[0] for indices in todo.values()]
            prepared = self._prepared([wanted[i][0] for i in firsts], model)
            ready: dict[str, Prepared] = {}
            for key, found in zip(todo, prepared, strict=True):
                if isinstance(found, MoleculeError):
                    report += [Failure(i, names[i], found.stage, found.reason) for i in todo[key]]
                else:
                    ready[key] = found
            for key, atoms in self._features(ready, model):
                value = atoms if return_atoms else self._pooled(atoms)
                if np.isfinite(value).all():
                    cache.put(key, value)
                    for index in todo[key]:
                        rows[index] = value
                else:
                    reason = "the network's features are not finite"
                    report += [Failure(i, names[i], "features", reason) for i in todo[key]]
        report = [failure._replace(index=failure.index + first_row) for failure in report]
        report.sort(key=lambda failure: (failure.index, failure.failed))
        assert {f.index - first_row for f in report if f.failed} == {
            i for i, row in enumerate(rows) if row is None
        }
        result = self._assembled(rows, report, return_atoms)
        return (result, report) if return_failures else result

    # --- steps ---

    def _loaded(self) -> MiDi:
        model = getattr(self, "_model", None)
        if model is None:
            if isinstance(self.checkpoint, MiDi):
                model, self._digest = self.checkpoint.eval(), digest_of(self.checkpoint)
            else:
                model, record = load_model(self.checkpoint)
                self._digest = record["digest"]
            self._model = model.to(choose_device(self.device))
        layers = model.config.network.layers
        checks = {
            f"layer {self.layer}: must be in 1 .. {layers}": self.layer is None
            or 1 <= self.layer <= layers,
            f"timestep {self.timestep}: must be in 0 .. {model.timesteps}": 0
            <= self.timestep
            <= model.timesteps,
            f"n_samples {self.n_samples}: must be 1 or more": self.n_samples >= 1,
            f"max_atoms {self.max_atoms}: must be 1 or more": self.max_atoms >= 1,
            f"pooling {self.pooling!r}: mean, sum or max": self.pooling in ("mean", "sum", "max"),
            f"errors {self.errors!r}: raise, nan or skip": self.errors in ("raise", "nan", "skip"),
            f"fragment {self.fragment!r}: largest or all": self.fragment in ("largest", "all"),
        }
        for problem, holds in checks.items():
            if not holds:
                raise UserError(problem)
        return self._model

    def _depth(self, model: MiDi) -> int:
        return self.layer or (model.config.network.layers + 1) // 2

    def _conformers(self) -> ConformerConfig:
        return ConformerConfig(
            attempts=self.attempts,
            timeout=self.timeout,
            optimize=self.optimize,
            fragment=self.fragment,
        )

    def _cache_prefix(self) -> str:
        depth = self._depth(self._loaded())
        options = (depth, self.timestep, self.seed, self.n_samples, self.pooling, self.max_atoms)
        return repr((1, self._digest, options, self._conformers()))

    def _parsed(
        self,
        sources: list[Any],
        names: list[str],
        vocabulary: Vocabulary,
        report: list[Failure],
    ) -> dict[int, tuple[Parsed, str]]:
        """Rows that could be read, and a key each that says what they hold."""
        found = {}
        rows = parse_rows(sources, names, report, vocabulary, self.fragment, self.max_atoms)
        for index, parsed in rows.items():
            key = parsed.content
            if has_structure(parsed.mol):
                key += hashlib.sha256(parsed.mol.ToBinary()).hexdigest()
                key += hashlib.sha256(
                    parsed.mol.GetConformer().GetPositions().tobytes()
                ).hexdigest()
            found[index] = (parsed, key)
        return found

    def _prepared(self, parsed: list[Parsed], model: MiDi) -> Iterable[Prepared | MoleculeError]:
        options = (self._conformers(), self.seed, self.max_atoms, model.config.kekulized)
        work = (delayed(prepare)(p, model.vocabulary, *options) for p in parsed)
        return Parallel(n_jobs=self.n_jobs, return_as="generator")(work)

    def _features(
        self, ready: dict[str, Prepared], model: MiDi
    ) -> Iterator[tuple[str, np.ndarray]]:
        """(atoms, d) of each, in batches of molecules of much the same size."""
        for keys in buckets({key: p.graph.num_nodes for key, p in ready.items()}):
            molecules = [ready[key] for key in keys]
            clean = collate([m.graph for m in molecules]).to(self.device)
            t = torch.full((len(keys),), self.timestep, device=self.device)
            total: Any = 0
            for sample in range(self.n_samples):
                noisy = clean
                if self.timestep > 0:
                    randomness = self._randomness(molecules, clean.mask.shape[1], sample)
                    noisy = model.corrupt(clean, t, randomness)
                inputs = model.network_input(noisy, t)
                with torch.inference_mode():  # not around a generator, which would leak it
                    features = model.denoiser.features(*inputs, layer=self._depth(model))
                    total = total + features.atoms.double()
            values = (total / self.n_samples).cpu().numpy()
            for row, (key, molecule) in enumerate(zip(keys, molecules, strict=True)):
                yield key, values[row, : molecule.graph.num_nodes].astype(np.float32)

    def _randomness(self, molecules: list[Prepared], atoms: int, sample: int) -> Randomness:
        """Noise of each molecule from its own generator, in canonical order and its own axes."""
        shape = (len(molecules), atoms)
        made = Randomness(
            positions=torch.zeros(*shape, 3, dtype=torch.float64),
            atoms=torch.zeros(shape, dtype=torch.float64),
            charges=torch.zeros(shape, dtype=torch.float64),
            bonds=torch.zeros(*shape, atoms, dtype=torch.float64),
        )
        for row, molecule in enumerate(molecules):
            n = len(molecule.order)
            seed = stable_seed(molecule.content, self.seed, sample)
            drawn = Randomness.draw(1, n, torch.Generator().manual_seed(seed))
            rank = torch.from_numpy(np.argsort(molecule.order))
            axes = torch.from_numpy(molecule.axes)
            made.positions[row, :n] = drawn.positions[0, rank] @ axes
            made.atoms[row, :n] = drawn.atoms[0, rank]
            made.charges[row, :n] = drawn.charges[0, rank]
            made.bonds[row, :n, :n] = drawn.bonds[0][rank][:, rank]
        return Randomness(*(value.to(self.device) for value in made))

    def _pooled(self, atoms: np.ndarray) -> np.ndarray:
        reduced = getattr(np, self.pooling)(atoms.astype(np.float64), axis=0)
        return reduced.astype(np.float32)

    def _assembled(self, rows: list[Any], report: list[Failure], return_atoms: bool) -> Any:
        refuse_failures(report, self.errors)
        if self.errors == "skip":
            rows = [row for row in rows if row is not None]
        if return_atoms:
            return rows
        empty = np.full(self.n_features, np.nan, dtype=np.float32)
        kept = [empty if row is None else row for row in rows]
        return np.stack(kept) if kept else np.empty((0, self.n_features), dtype=np.float32)
